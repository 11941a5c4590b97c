"""Products that nobody sells, and order numbers: what an answer must copy letter by letter.

The two splits share no brand, no kind of product, no model name and no number.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from alignkit.data.tickets.draw import Split, below, number, pick


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """What product names of one split are made of."""

    brands: tuple[str, ...]
    kinds: tuple[str, ...]
    models: tuple[str, ...]
    letters: str
    """First letters of model numbers (``X2``)."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


TRAIN = Catalogue(
    brands=_names(
        "Alvero, Arvika, Balto, Beldin, Birchwell, Brightleaf, Calora, Cedarline, Corvane, Dalmo, Dunmere, "
        "Eastholm, Elvaro, Fennick, Fjordal, Galvero, Glenrow, Halden, Hexaro, Ivorel, Jorvik, Kaldera, "
        "Kestrin, Lumora, Lindqvar, Marlo, Mondeza, Nimbrel, Northpeak, Oakhurst, Orvella, Pellano, "
        "Pinecrest, Quantor, Quillon, Rivano, Rothmere, Sandoval, Silverfen, Solvo, Tamrix, Tervo, Ultano, "
        "Umberfield, Valdor, Velmora, Westbrook, Wintrell, Xandor, Yarrow, Zelkova, Zentro"
    ),
    kinds=_names(
        "kettle, desk lamp, blender, coffee grinder, vacuum cleaner, toaster, speaker, router, keyboard, "
        "monitor, electric shaver, hair dryer, air purifier, bike light, camera, fan, food mixer, "
        "baby monitor, drill, e-reader, fitness band, heater, iron, juicer, lawn mower, microwave, tablet, "
        "printer, projector, sewing machine, thermostat, smart watch, webcam, wine cooler, alarm clock, "
        "bread maker, phone, massage chair, hob, doorbell, leaf blower, freezer"
    ),
    models=_names("Mini, Pro, Plus, Air, Max, One, Classic, Home, GT, Ultra"),
    letters="ABCDGHMPSTVX",
)

HELDOUT = Catalogue(
    brands=_names(
        "Aldercott, Borealo, Castellan, Drevik, Emberly, Farrowdale, Gildano, Hollowfen, Isolde, Juniper Row, "
        "Kronvall, Larkspur, Mirabeck, Novandel, Ostrander, Pavonia, Riverstone, Stellwag, Thornbury, "
        "Vantico, Wexmoor, Zephyrine"
    ),
    kinds=_names(
        "rice cooker, floor lamp, headset, espresso machine, dishwasher, scanner, radio, power bank, "
        "game controller, television, electric toothbrush, hair straightener, dehumidifier, scooter, drone, "
        "treadmill, record player, hedge trimmer, ice maker, label maker"
    ),
    models=_names("Lite, Duo, Nova, Prime, Compact, Studio"),
    letters="EFKLNRZ",
)

CATALOGUES: dict[Split, Catalogue] = {"train": TRAIN, "heldout": HELDOUT}


def product(rng: random.Random, split: Split) -> str:
    """A name such as ``Solvo kettle``, ``Arvika 310 blender``, ``Tervo Mini desk lamp`` or ``Marlo router X2``."""
    catalogue = CATALOGUES[split]
    brand, kind = pick(rng, catalogue.brands), pick(rng, catalogue.kinds)
    form = below(rng, 10)
    if form < 4:
        return f"{brand} {kind}"
    if form < 6:
        model = pick(rng, catalogue.models)
    elif form < 8:
        model = pick(rng, catalogue.letters) + str(number(rng, split, 2, 100))
    else:
        model = str(number(rng, split, 100, 1000))
    return f"{brand} {kind} {model}" if below(rng, 3) == 0 else f"{brand} {model} {kind}"


def order_number(rng: random.Random, split: Split) -> str:
    """A number such as ``48213``, ``AB-48213``, ``K4821``, ``482-1396`` or ``2148-KD``, as the answer gives it."""
    capitals = "ABCDEFGHJKLMNPRSTUVWXZ"  # no letter that looks like a digit
    form = below(rng, 6)
    if form < 2:
        return str(number(rng, split, 10_000, 1_000_000))
    if form == 2:
        return f"{pick(rng, capitals)}{pick(rng, capitals)}-{number(rng, split, 1000, 100_000)}"
    if form == 3:
        return f"{pick(rng, capitals)}{number(rng, split, 1000, 100_000)}"
    if form == 4:
        return f"{number(rng, split, 100, 1000)}-{number(rng, split, 1000, 10_000)}"
    return f"{number(rng, split, 1000, 10_000)}-{pick(rng, capitals)}{pick(rng, capitals)}"
