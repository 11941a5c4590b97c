"""How customers write in the held-out rows. Shares no sentence with wording_train.py."""

from __future__ import annotations

from alignkit.data.tickets.problems_heldout import HELDOUT_PROBLEMS
from alignkit.data.tickets.wording import Wording

HELDOUT = Wording(
    greetings=("Hey!", "Good morning!", "Good day,\n", "Dear Sir or Madam,\n"),
    closings=("Cheers!", "Many thanks.", "Yours sincerely"),
    introductions=(
        "I purchased {a_product} [online|as a gift].",
        "In [March|spring] I chose {a_product} in your store.",
        "My message is about the {product}.",
        "The article in question is my {product}.",
        "You sold me {a_product}.",
    ),
    problems=HELDOUT_PROBLEMS,
    refund=(
        "I would rather have [my money|the purchase price] back.",
        "Could you arrange [a refund|for a full refund]?",
        "Let me know when [I will be refunded|the refund is on its way].",
        "Reimbursement of the sum is what I am after.",
        "Send back my money.",
        "You owe me a refund.",
        "I am entitled to [get my money back|a refund] and ask for it.",
        "Please put the sum back on my card.",
        "I have had enough and ask for my money.",
    ),
    refund_not_exchange=(
        "Do not [send another|swap it], I [want|prefer] a refund.",
        "Rather than [an exchange|a second try] I ask for [a refund|my money].",
    ),
    remedies={
        "exchange": (
            "Would you [mail|get] me a fresh one?",
            "An exchange is all I ask for.",
            "I am not after my money, a [substitute|replacement] would be perfect.",
            "Keep the money and [deliver a new one|give me another unit].",
            "Please organise [an exchange|a replacement].",
            "It would be nice to have it [exchanged|replaced].",
        ),
        "part": (
            "Would you mail me the part?",
            "The absent piece is all I ask for.",
            "Keep the money and deliver the rest.",
            "I am not after my money, the piece alone would be perfect.",
        ),
        "delivery": (
            "Would you look into the shipment?",
            "A delivery date is all I ask for.",
            "Keep the money and bring me the goods.",
            "I am not after my money, I simply want it delivered.",
            "Please talk to the [carrier|courier company].",
        ),
        "invoice": (
            "Would you [amend|check] the bill?",
            "A correct invoice is all I ask for.",
            "I am not after my money, I simply want the paperwork to be right.",
            "Please tell me how the [sum|charge] came about.",
        ),
    },
    order_inline=(" bought under order {order}", " (ref. {order})", " (purchase {order})"),
    order_sentences=(
        "You can look it up as {order}.",
        "The receipt shows {order} as order number.",
        "Your system knows it as {order}.",
        "Concerning purchase {order}.",
        "My purchase has the number {order}.",
        "In case you need it, the order ID is {order}.",
        "The reference on the receipt is {order}.",
        "Number of my purchase: {order}.",
    ),
    no_order=(
        "The order number escapes me.",
        "I can no longer find the receipt.",
        "Unfortunately I did not note the order number down.",
        "I am afraid I have no number to give you.",
        "The e-mail with the order number is gone.",
    ),
    urgent=(
        "I am running out of time.",
        "Please treat this as an emergency.",
        "We need an answer before tonight.",
        "Could somebody deal with this straight away?",
        "My [exam|flight] is in two days, so be fast.",
        "Please make it fast.",
        "Waiting is not an option.",
        "It must be settled by [Thursday|noon].",
        "This has the utmost urgency.",
    ),
    relaxed=(
        "Do not rush [on my account|because of me].",
        "You can get to it later.",
        "I have plenty of time.",
        "Any day is good for me.",
        "Answer whenever it is convenient.",
        "It is fine if this takes a while.",
        "We are not in any rush here.",
        "It is far from urgent.",
        "No pressure from my side.",
    ),
)
