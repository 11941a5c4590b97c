"""What goes wrong in the held-out rows. Shares no sentence with problems_train.py."""

from __future__ import annotations

from alignkit.data.tickets.wording import Problem

HELDOUT_PROBLEMS: dict[Problem, tuple[str, ...]] = {
    "damaged": (
        "The driver handed me {it} with [the outer shell cracked|a nasty dent].",
        "I took {it} out of the wrapping and [saw that the glass had shattered|noticed a huge scratch].",
        "{It} must have been hit on the road, because [its side is dented|the frame is bent].",
        "Lifting it out of the carton I saw that {it} was [smashed|badly chipped].",
        "Transport was not kind to {it}: [cracks everywhere|the edges are crushed].",
        "What a pity: {it} turned up [scratched and dented|with its handle broken off].",
        "On delivery {it} already had [a split down the middle|a chipped rim].",
        "Somebody crushed the package, so {it} is [bent|cracked] now.",
        "{It} looks as if it fell off a truck, [scratched all over|with cracks on every side].",
    ),
    "defective": (
        "{It} was fine at first, but now it [will not power on|cuts out constantly].",
        "When I press the power button, {it} [does nothing|does not react at all].",
        "Whenever I use {it}, it [shuts itself off halfway|gets far too hot and stops].",
        "After only one evening of use {it} [broke down|quit working].",
        "The cable is fine, but {it} [stays dead|will not turn on], even at another socket.",
        "I followed the manual, yet {it} [never starts up|does not function].",
        "The display on {it} [stays black|flickers and goes off].",
        "{It} [malfunctions|freezes] [daily|all the time] and has to be restarted.",
        "Something inside {it} has [failed|burnt out], because it [no longer runs|went dead].",
    ),
    "late": (
        "{It} should have been at my door [days ago|by the weekend], and I have seen nothing.",
        "More than [two weeks|fifteen days] have passed without {it} being delivered.",
        "Since Sunday the tracking of {it} stands still, and [nothing has arrived|no parcel has come].",
        "Again the postman had nothing for me, and {it} is [late|overdue] by now.",
        "Nobody can tell me where {it} is; [the package vanished|the parcel got lost in the post].",
        "I keep waiting, but {it} [does not come|is yet to be delivered].",
        "{It} [never made it to my address|got lost somewhere on the way].",
        "Apparently {it} has not even been shipped from your warehouse.",
        "How much longer must I wait for {it} to [arrive|be delivered]?",
    ),
    "wrong item": (
        "I unpacked the delivery and found [a hat|a chess set] where {it} should have been.",
        "There has been a mix-up: [a set of towels|a doll] came, although I had chosen {it}.",
        "You shipped [the incorrect model|an entirely different article]; I had ordered {it}.",
        "My order was for {it}, and what I hold in my hands is [a bicycle pump|a picture frame].",
        "Why did I get [a frying pan|a violin] when I bought {it}?",
        "Not {it} but [somebody else's jacket|some unknown gadget] was in the package.",
        "The thing in the box is [a different brand|the wrong version] and not {it}.",
        "By mistake I was sent [a kite|a drum], although {it} was what I had ordered.",
    ),
    "missing part": (
        "{It} lacks [its power cord|the wall bracket], so I cannot use it.",
        "When I checked the contents, [the instructions|the rubber feet] for {it} [had been left out|were missing].",
        "Somebody forgot the [adapter|bag of screws] that belongs to {it}, it is missing.",
        "I checked the pieces of {it} twice: [the lid|one wheel] is missing.",
        "According to the leaflet {it} includes [a spare battery|a carry strap], but that was not in the box.",
        "{It} turned up incomplete, [the remote is not there|with a screw missing].",
        "I searched the carton of {it}, but the [charging dock|nozzle] was not included.",
        "How do I use {it} when the [plug|handle] is missing?",
    ),
    "overcharged": (
        "Checking my account, I see that {it} was [paid for twice|deducted two times].",
        "The amount on the receipt for {it} is {high}, whereas the website had {low}.",
        "Why was I billed {high} for {it} when it is listed at {low}?",
        "You debited [the full price despite my voucher|more than we agreed] for {it}.",
        "My [credit card|bank] lists two identical charges for {it}.",
        "{It} was on sale, but the invoice [ignores the discount|has the old, higher price].",
        "I think there is an error on the bill for {it}: [I paid too much|the total is too high].",
        "An extra {low} was taken from my card for {it}.",
    ),
}
