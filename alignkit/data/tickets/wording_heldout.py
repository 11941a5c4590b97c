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
        "I would be glad about a refund of the whole sum.",
        "Send back my money.",
        "You owe me a refund.",
        "I am entitled to [get my money back|a refund] and ask for it.",
        "Please put the sum back on my card.",
        "I have had enough and ask for my money.",
        "Will you reimburse me?",
    ),
    refund_not_exchange=(
        "Do not [send another|swap it], I [want|prefer] a refund.",
        "Rather than an exchange I ask for [a refund|my money].",
    ),
    remedies={
        "exchange": (
            "Would you [mail|get] me a new one?",
            "An exchange is all I ask for.",
            "I am not asking for money, a [new one|replacement] would be perfect.",
            "A refund is not necessary, please [deliver a new one|give me another one].",
            "Please organise [an exchange|a replacement].",
            "It would be nice to have it [exchanged|replaced].",
        ),
        "part": (
            "Would you mail me the part?",
            "The missing piece is all I ask for.",
            "A refund is not necessary, please deliver the rest.",
            "I am not asking for money, the part alone would be perfect.",
        ),
        "delivery": (
            "Would you look for my parcel?",
            "The delivery is all I ask for.",
            "A refund is not necessary, please bring me the goods.",
            "I am not asking for money, I simply want it delivered.",
            "Please talk to the [courier|courier company].",
        ),
        "invoice": (
            "Would you [correct|check] the bill?",
            "A correct invoice is all I ask for.",
            "I am not asking for money, I simply want an invoice that is right.",
            "Please tell me how the [sum|charge] came about.",
        ),
    },
    order_inline=(" with order number {order}", " (ref. {order})", " (purchase {order})"),
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
        "Could somebody [answer|help] me immediately?",
        "Please solve this as soon as possible.",
        "It has to be settled by [tomorrow|Friday|tonight].",
        "My [exam|flight] is tomorrow, so be fast.",
        "Please treat this as [urgent|an emergency].",
        "Without a solution [today|by tomorrow] I am in trouble.",
        "Hurry up, please.",
        "We urgently need [help|a solution].",
        "Please make it quick, my deadline is [today|this week].",
    ),
    relaxed=(
        "No rush [at all|from my side].",
        "You may take your time with this.",
        "You do not need to hurry because of me.",
        "This is not an urgent matter.",
        "My request can wait [a few weeks|for a while].",
        "Answer me whenever you have time.",
        "We are not in any rush here.",
        "I have plenty of time, so next week is fine.",
        "There is really no need to hurry.",
    ),
)
