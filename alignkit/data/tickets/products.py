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

    stems: tuple[str, ...]
    endings: tuple[str, ...]
    """A brand is a stem and an ending: so many that copying is learned, and not the brands."""
    kinds: tuple[str, ...]
    models: tuple[str, ...]
    letters: str
    """First letters of model numbers (``X2``)."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


TRAIN = Catalogue(
    stems=_names(
        "Al, Arvi, Bal, Bel, Birch, Bright, Calo, Cedar, Cor, Dal, Dun, East, Elva, Fenn, Fjor, Gal, Glen, Hal, "
        "Hex, Ivo, Jor, Kal, Kest, Lum, Lind, Mar, Mon, Nim, North, Oak, Or, Pel, Pine, Quan, Quil, Riv, Roth, San, "
        "Silver, Sol, Tam, Ter, Ul, Umber, Val, Vel, West, Win, Xan, Yar, Zel, Zen"
    ),
    endings=_names(
        "bin, dale, dor, fen, ford, gard, holm, ica, ix, kin, leaf, lio, mere, mora, nex, peak, ric, row, tec, tro, "
        "vane, vero, well, wick"
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
    stems=_names(
        "Alder, Bore, Castel, Dre, Ember, Farrow, Gil, Hollow, Iso, Juni, Kron, Lark, Mira, Novan, Ostra, Pavo, "
        "River, Stel, Thorn, Van, Wex, Zephy"
    ),
    endings=_names("bury, cott, dano, lian, moor, spur, stone, tico"),
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
    """A name such as ``Solmora kettle``, ``Fenndale 310 blender``, ``Terwick Mini fan`` or ``Oakric router X2``."""
    catalogue = CATALOGUES[split]
    brand = pick(rng, catalogue.stems) + pick(rng, catalogue.endings)
    kind = pick(rng, catalogue.kinds)
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
