"""How people say when, and what for. The splits share no sentence and no occasion.

``{what}`` is the occasion, ``{day}`` the date, ``{time}`` the time. A held-out sentence may use the same words as a
training sentence, never the same frame.
"""

from __future__ import annotations

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
HOURS = ("twelve", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")
"""Hour modulo 12 in words."""

TRAIN_FRAMES = (
    "Please put the {what} on {day} at {time}.",
    "The {what} is on {day}, {time}.",
    "Don't forget the {what} at {time} on {day}.",
    "I booked the {what} for {day} at {time}.",
    "Can you note down: {what}, {day}, {time}?",
    "They can only see us for the {what} on {day} at {time}.",
    "{day}, {time}: that is when the {what} begins.",
    "We agreed on {time} for the {what}, on {day}.",
    "Remind me of the {what}. It is {day} at {time}.",
    "The office confirmed the {what} for {time} on {day}.",
    "My {what} was moved to {day} at {time}.",
    "Let's have the {what} on {day}. {time} suits everyone.",
    "On {day} I have the {what}, at {time} sharp.",
    "Save the date: {what} on {day}, starting at {time}.",
    "Anna asks whether {time} on {day} is fine for the {what}. It is.",
    "Good news, the {what} takes place on {day} at {time}.",
    "The {what} starts at {time}, and the day is {day}.",
    "For the {what} we have to be there by {time} on {day}.",
    "The letter says {day}, {time}, for the {what}.",
    "At {time} on {day} there is the {what}.",
    "I will pick you up for the {what} on {day} at {time}.",
    "You are invited to the {what} on {day} at {time}.",
    "The {what} was on another day before; now it is {day} at {time}.",
    "Nothing else on {day}, only the {what} at {time}.",
)
HELDOUT_FRAMES = (
    "Could you enter the {what} in my calendar? {day}, from {time}.",
    "Just so you know, {time} on {day} is taken by the {what}.",
    "The new slot that they offered for the {what} is {time}, {day}.",
    "We will meet for the {what} at {time}; mark {day}, please.",
    "Keep {day} free: the {what} was fixed for {time}.",
    "Regarding the {what}: it will happen on {day}, and we begin at {time}.",
    "As discussed, {what}, {time}, {day}.",
    "I nearly missed that the {what} is at {time} on {day}, so write it down.",
    "They phoned about the {what}. See you on {day}, {time}, they said.",
    "Hi Tom, the {what} is going to be on {day} around {time}.",
)
TRAIN_OCCASIONS = (
    *(
        "dentist",
        "haircut",
        "team meeting",
        "piano lesson",
        "job interview",
        "yoga class",
        "eye test",
        "parents' evening",
    ),
    *("car inspection", "budget review", "board meeting", "birthday party", "vet visit", "school play"),
    *("blood test", "swimming lesson", "book club", "wedding rehearsal", "lease signing", "guitar lesson", "flu shot"),
    *("site visit", "choir practice", "tax appointment", "dinner with Marta", "lunch with the auditors"),
    *("call with Berlin", "physiotherapy", "driving lesson", "neighbourhood meeting", "chess evening"),
    "plumber's visit",
)
HELDOUT_OCCASIONS = (
    *(
        "passport renewal",
        "boiler service",
        "project kick-off",
        "pottery workshop",
        "breakfast with Liam",
        "hearing test",
    ),
    *("garden tour", "violin exam", "staff training", "furniture delivery", "poetry reading", "rent negotiation"),
)
