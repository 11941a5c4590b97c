"""English words that praise and words that blame, and what turns or strengthens them. Written for alignkit.

A stem stands for all the words that `ENDINGS` make of it ("inspir": inspire, inspired, inspiring), its last letter
doubled or not, its e dropped, its y turned into i; where stems would take a word for what it is not, it stands below by
itself.
"""

from __future__ import annotations

import re
from functools import lru_cache

GOOD = """
accomplish accurate achieve admir adorable affection agreeable amaz amus appreciate appropriate astonish attractive
authentic awesome beautiful beauty beloved beneficial benefit best better blessed bless bliss bonus brave breathtaking
bright brilliant calm captivat careful caring celebrate charm cheer cherish clean clear clever comfort commend
compassion compelling compliment confident congratulat considerate cool courage courteous creative credible cute dazzl
decent dedicated delicious delight dependable deserve dignity diligent eager easy effective efficient effortless
elegant eloquent empathy enchant encourage endearing energetic engaging enjoy enlighten enrich entertain enthusias
enthrall excellent exceptional excit exhilarat exquisite extraordinary fabulous fair faithful family-friendly
fantastic fascinat favorite favourite fine finest first-rate flawless flourish fond fortunate free fresh friend
friendly fun funny gem generous genial gentle genuine genius gift glad glorious glory good gorgeous grace graceful
gracious grand grateful gratitude great grin gripping handsome happiness happy harmless harmony healthy heartfelt
heartwarming heavenly help helpful hero hilarious honest honor honour hope hopeful hug humor humorous humour ideal
imaginative impeccable impress improve incredible ingenious innovative insightful inspir integrity intelligent
interesting intrigu inviting joy joyful joyous kind kindness laugh laughter lively love lovely loyal luck lucky
luminous luxurious magic magical magnificent majestic marvel marvelous marvellous masterful masterpiece memorable
mesmeriz merry mercy miracle motivat neat nice nicely noble nourish optimis original outstanding passionate patient
peace peaceful perfect perfection perfectly perky phenomenal playful pleasant please pleasing pleasure plentiful
poetic poignant polished polite popular positive powerful praise precious prefer pretty pride pristine progress
promising prosper proud pure quality radiant reassur recommend refined refresh rejoice relax reliable relief
remarkable respect respectful reward rich romantic satisf scrumptious secure sensational sensible sensitive serene
sharp shine sincere skill skilful smart smile smooth soothing sparkl special spectacular splendid stellar strength
strong stunning stylish sublime succeed success successful suitable superb superior support supportive surpass sweet
sympathetic talent talented tasty tender terrific thank thankful thorough thoughtful thrill thrive tidy top-notch
touching tranquil treasure triumph trust trustworthy truthful unforgettable unique uplift upbeat useful valuable
vibrant victory vivid warm warmth wealth welcome well-done wholesome win winner wisdom wise witty won wonder wonderful
wow worthwhile worthy yay yummy zest
"""

BAD = """
abandon abhor abominable abrasive absurd abus abysmal accident accuse ache afraid aggravat aggress agony alarm alas
alienat aimless amateurish anger angry anguish annoy anxiety anxious apath appall arrogant asham atrocious attack
awful awkward bad badly banal barbaric betray bigot bitter blam bland bleak bloated blunder bogus bor boredom boring
bother breakdown broke broken brutal bug burden careless catastroph cheat cheap cheesy chaos cliche clumsy coarse cold
collapse complain complaint concern condemn confus contempt contradict contrived corrupt coward crap crash crazy crime
criminal cringe cripple critic criticism criticiz crude cruel crush cry curs cynical damage damn danger dangerous dark
dead deadly dearth death deceit deceiv defeat defect deficien degrad delay dementia demean deny deplor depress deprive
derivative derogatory desperate despair despicable despise destroy destruct detest devastat difficult dire dirty
disagree disappoint disapprov disast disastrous discomfort discourag disdain disease disgrace disgust dishonest
dislike dismal dismay disorder displeas disrespect disrupt dissatisf distort distress distract distrust disturb doom
doubt dread dreadful dreary drag dull dumb dying embarrass empty enem enrag envy error evil exaggerat excruciat
exhaust exploit fail failure fake fault faulty fear fearful feeble fiasco fight filthy flat flaw flawed flop fool
foolish forgettable fraud frighten frustrat fury furious garbage ghastly gloom gloomy greed greedy grief grim gross
grotesque guilt guilty halfhearted harass hard harm harmful harsh hate hated hateful hatred haunt heartbroken helpless
hideous hollow hopeless horrendous horrible horribly horrid horrific horrify hostile humiliat hurt hypocri hysteri
idiot idiotic ignoran ignorant ill illegal impatient implausible impossible inane inadequate inappropriate incoherent
incompetent inconsistent incorrect inept inferior infuriat injur injustice insane insecure insipid insolent insult
insufferable intolerable irrational irrelevant irresponsible irritat jealous jerk joyless junk kill lack lame lazy
liar lie lied lifeless lonely lose loser losing loss lost lousy ludicrous mad malicious mediocre meaningless melanchol
mean menac mess messy miser miserable misery misfortune mishap mislead miss mistake mistrust misunderst moan mock
monoton mourn murder muddled nasty nausea needless negative neglect nervous nightmare noisy nonsense obnoxious obscene
offend offensive ordeal outdated outrage overlong overrat pain painful painfully panic pathetic peril pessimis
pointless poison poor poorly predictable pretentious problem problematic protest punish racist rage rant regret reject
repel repugnant repulsive resent revenge ridicul rip-off risk rotten rude ruin sad sadly sadness savage scam scandal
scar scare scary scream selfish senseless severe shabby shallow shame shameful shock sick sickening silly sin sinister
slow sloppy sorrow sorry sour spite stale steal stink stole strain stress struggle stubborn stupid suck suffer
suspicious tacky tasteless tedious tedium tense terribl terrible terribly terrify terror threat threaten tired
tiresome tolerat torment torture toxic tragedy tragic trash trauma treacher trite trivial trouble troubl ugh ugly
unacceptable unappealing unbearable unclear uncomfortable unconvincing uneasy uneven unfair unfocused unfortunate
unfortunately unfriendly unfunny unhappy unhealthy unhelpful unimaginative uninspired uninteresting unjust unkind
unlikable unnecessary unoriginal unpleasant unreliable unsafe unsatisf unsuccessful untrue unwanted unwatchable
unwelcome unworthy upset useless vague vain vapid vicious victim vile villain violate violen vulgar warn waste wasted
weak weakness weary weird whine wicked woe wooden worr worry worse worst worthless wound wreck wretched wrong yawn
"""

STRONG = """
abhor abominable abysmal agony appall atrocious awesome awful amaz astonish best breathtaking brilliant catastroph
delight despise despicable detest devastat disast disastrous disgust dreadful excellent exceptional excruciat
exquisite extraordinary fabulous fantastic flawless furious ghastly glorious gorgeous hate hated hideous horrendous
horrible horrid horrific incredible love magnificent marvelous marvellous masterpiece miserable nightmare outstanding
perfect perfectly phenomenal rage remarkable sensational spectacular splendid stellar stunning sublime superb terrible
terribly terrific thrill unbearable unforgettable unwatchable vile wonderful worst wretched
"""
"""Stems of both that count twice."""

ENDINGS = """
s es d ed r er est ing ly ion ions ation ment ments ness able ably ful fully ive ively ant ance ent ence ous ously ic
ical ies ied y ily ier iest ity e ist istic ism al ally or ors ingly edly ial ying ted ting ption te tes ate ated ates
ating bly iness
"""

NEITHER = """
made madison hardware hardly hardy warner warners wind winds window wonderland wondering huge hugely kinds kinda means
meaning meanwhile thriller thrillers respective respectively minister single sing singer since cooler coolant badge
missing mission missions missile painting finer finely finesse finished finish fines evident presently supporting
supporter supporters supported lover lovers laughingstock winters winter prefers preferred preference preferences
freely
"""

GOOD_WORDS = """
effortless effortlessly flawless flawlessly priceless seamless fearless fearlessly tireless timeless harmless painless
gifted
"""

BAD_WORDS = """
careless helpless joyless graceless tasteless hopeless humorless humourless loveless friendless laughable heartless
senseless thankless worthless
"""

NEGATORS = """
aint arent barely cannot cant couldnt didnt doesnt dont hadnt hardly hasnt havent isnt neither never no nobody none
nor not nothing scarcely shouldnt wasnt werent without wont wouldnt
"""

BOOSTERS = """
absolutely completely deeply especially exceptionally extremely highly incredibly most particularly really remarkably
so thoroughly totally truly utterly very
"""

WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")


@lru_cache(maxsize=50_000)
def worth(word: str) -> float:
    """Of a word in lower case: 1 or 2 for praise, -1 or -2 for blame, 0 for all others."""
    known = _WORDS.get(word)
    if known is not None:
        return known
    # The longest stem that the word is a form of.
    for end in range(len(word), 2, -1):
        stem, rest = word[:end], word[end:]
        if not rest or rest in _ENDINGS or (rest[0] == stem[-1] and rest[1:] in _ENDINGS):
            found = _STEMS.get(stem)
            if found is None and rest in _AFTER_E:  # hate, hating
                found = _STEMS.get(stem + "e")
            if found is None and stem[-1] == "i" and rest:  # happy, happiest
                found = _STEMS.get(stem[:-1] + "y")
            if found is not None:
                return found
    return 0.0


def negates(word: str) -> bool:
    """Whether a word in lower case turns what follows: not, never, isn't, isnt …"""
    return word.endswith("n't") or word in _NEGATORS


def boosts(word: str) -> bool:
    """Whether a word in lower case strengthens what follows: very, extremely …"""
    return word in _BOOSTERS


_STRONG = frozenset(STRONG.split())
_STEMS = {
    stem: sign * (2.0 if stem in _STRONG else 1.0) for stems, sign in ((GOOD, 1), (BAD, -1)) for stem in stems.split()
}
_WORDS = {
    **dict.fromkeys(NEITHER.split(), 0.0),
    **dict.fromkeys(GOOD_WORDS.split(), 1.0),
    **dict.fromkeys(BAD_WORDS.split(), -1.0),
}
_ENDINGS = frozenset(ENDINGS.split())
_AFTER_E = frozenset(("ing", "ingly", "ed", "er", "est", "able", "ably"))
_NEGATORS = frozenset(NEGATORS.split())
_BOOSTERS = frozenset(BOOSTERS.split())
