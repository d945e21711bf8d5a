"""The spellings that sellers use: which are found in any case, which only if the list enables them, and which never."""

from typing import NamedTuple

import pytest

from tests.support.term_samples import parts

JOINED, SPACED, LEET = "joined", "spaced", "leet"
INFLECTION, PREFIXES, ACCENTS = "inflection", "prefixes", "accents"
KNIFE = "switchblade"


class Pair(NamedTuple):
    """A phrase and a text; `expected` has the parts of the text that are found."""

    phrase: str
    text: str
    expected: list[str]


def always(phrase: str, text: str, *expected: str) -> Pair:
    return Pair(phrase, text, list(expected))


NOT_DISPLAYED = [
    always(KNIFE, "a switch\u200bblade", "switch\u200bblade"),  # zero-width space
    always(KNIFE, "a switch\u00adblade", "switch\u00adblade"),  # soft hyphen
    always(KNIFE, "s\u200cw\u200di\u2060tchblade!", "s\u200cw\u200di\u2060tchblade"),  # joiners
    always(KNIFE, "\ufeffswitchblade\ufe0f", "switchblade\ufe0f"),  # byte order mark, variation selector
    always(KNIFE, "switch\u202eblade\u202c", "switch\u202eblade\u202c"),  # directional marks
    always(KNIFE, "switch\u034fblade", "switch\u034fblade"),  # combining grapheme joiner
    always(KNIFE, "switch\u3164blade", "switch\u3164blade"),  # Hangul filler
    always(KNIFE, "switch\U000e0041blade", "switch\U000e0041blade"),  # tag
    always(KNIFE, "switch\u180eblade \u2063switchblade", "switch\u180eblade", "switchblade"),
    always("سلاح", "ســلاح", "ســلاح"),  # tatweel
    always("hand grenade", "hand \u200b grenade", "hand \u200b grenade"),
    always(KNIFE, "switch\u200bblades"),
]
APOSTROPHES_AND_HYPHENS = [
    always("couteau à cran d'arrêt", "Couteau à cran d’arrêt", "Couteau à cran d’arrêt"),
    always("couteau à cran d’arrêt", "couteau à cran d'arrêt", "couteau à cran d'arrêt"),
    always("cran d'arrêt", "cran d`arret, cran d´arrêt", "cran d`arret", "cran d´arrêt"),
    always("cran d'arrêt", "cran dʼarrêt et cran d＇arrêt", "cran dʼarrêt", "cran d＇arrêt"),
    always("fusil d'assaut", "FUSIL D‘ASSAUT", "FUSIL D‘ASSAUT"),
    always("Rock 'n Play Sleeper", "Rock ’n Play Sleeper", "Rock ’n Play Sleeper"),
    always("semi-automatic pistol", "semi‑automatic pistol", "semi‑automatic pistol"),
    always("semi-automatic pistol", "semi–automatic pistol", "semi–automatic pistol"),
    always("semi-automatic", "semi−automatic, semi﹣automatic", "semi−automatic", "semi﹣automatic"),
    always("semi-automatic", "semi automatic"),
    always("Tread+ treadmill", "Tread＋ Treadmill", "Tread＋ Treadmill"),
    always("1:1 copy", "a 1：1 copy", "1：1 copy"),
    always("Galaxy Note 7", "Galaxy Note 7™, Galaxy Note® 7", "Galaxy Note 7"),
]
LOOKALIKES = [
    always(KNIFE, "ѕwitchblade", "ѕwitchblade"),  # Cyrillic dze
    always(KNIFE, "SWIТCHВLАDЕ", "SWIТCHВLАDЕ"),  # Cyrillic capitals
    always("cocaine", "сосаіnе СОСАІNE", "сосаіnе", "СОСАІNE"),
    always("heroin", "hеrοin", "hеrοin"),  # Cyrillic and Greek
    always(KNIFE, "switсhbladе-", "switсhbladе"),
    always("gun", "ɡun", "ɡun"),  # Latin script g
    always("gun", "𝓰𝓾𝓷 ⓖⓤⓝ ｇｕｎ", "𝓰𝓾𝓷", "ⓖⓤⓝ", "ｇｕｎ"),
    always("sex", "ѕех", "ѕех"),  # a word of Cyrillic letters alone
    always("pot", "РОТ", "РОТ"),
    always("pot", "рот"),  # the Cyrillic word for mouth: its small т looks like no Latin letter
    always("оружие", "oрyжиe", "oрyжиe"),  # Latin letters in a Cyrillic word
    always("наган", "НAГАН", "НAГАН"),
    always("хор", "xоp", "xоp"),
    always("όπλο", "όπλo", "όπλo"),  # Latin o in a Greek word
    always("vodka", "vodkа", "vodkа"),
    always("gun", "guп"),
]
ACCENTS_ARE_FOLDED = [
    always("munición real", "MUNICION REAL", "MUNICION REAL"),
    always("munición real", "munición real", "munición real"),
    always("municion real", "Munición Real", "Munición Real"),
    always("silah", "SİLAH SILAH sılah", "SİLAH", "SILAH", "sılah"),
    always("ılık", "ILIK ilik", "ILIK", "ilik"),
    always("όπλο", "ΟΠΛΟ ΌΠΛΟ οπλο", "ΟΠΛΟ", "ΌΠΛΟ", "οπλο"),
    always("ναρκωτικός", "ΝΑΡΚΩΤΙΚΟΣ", "ΝΑΡΚΩΤΙΚΟΣ"),  # final sigma
    always("όπλος", "όπλοσ", "όπλοσ"),
    always("nóż sprężynowy", "NOZ SPREZYNOWY", "NOZ SPREZYNOWY"),
    always("żółć", "zolc żołć", "zolc", "żołć"),  # Polish l with stroke
    always("smørkniv", "smorkniv smoerkniv", "smorkniv", "smoerkniv"),
    always(
        "Schalldämpfer",
        "Schalldaempfer SCHALLDÄMPFER Schalldampfer",
        *["Schalldaempfer", "SCHALLDÄMPFER", "Schalldampfer"],
    ),
    always("Straße", "STRASSE strasse", "STRASSE", "strasse"),
    always("нож", "но\u0301ж", "но\u0301ж"),  # stress mark
    always("ёлка", "елка", "елка"),
    always("gun", "g\u0337u\u0322n\u0489", "g\u0337u\u0322n\u0489"),
    always("ma túy", "MA TUÝ, ma tuy", "MA TUÝ", "ma tuy"),
    always("سلاح", "سِلَاح", "سِلَاح"),  # vowel points
    always("cocaïne", "cocaine", "cocaine"),
]
SCRIPTS = [
    always("CBD", "高濃度CBDオイル", "CBD"),
    always("LV", "正品LV包", "LV"),
    always("CBD", "น้ำมันCBDแท้", "CBD"),
    always("กัญชา", "ขายกัญชาCBDราคาถูก", "กัญชา"),
    always("CBD", "CBD오일", "CBD"),
    always("대마초", "대마초를 팝니다", "대마초"),
    always("대마초", "대마초에서는 대마초입니다", "대마초", "대마초"),
    always("대마초", "대마초들이", "대마초"),
    always("대마초", "대마초이라고 대마초뿐 대마초한테 대마초조차 대마초같은 대마초들까지도", *["대마초"] * 6),
    always("총", "총알"),  # bullet: another word, not a particle
    always("권총", "권총3정", "권총"),
    always("ナイフ", "飛び出しナイフ屋", "ナイフ"),
    always("LV", "LVсумка", "LV"),
    always("gun", "gunλ", "gun"),
    always("gun", "ｶﾞﾝgun", "gun"),
    always("バッグ", "ﾊﾞｯｸﾞ", "ﾊﾞｯｸﾞ"),
    always("武器", "新武器店", "武器"),
    always("7号", "27号"),
    always("iPhone", "아이폰iPhone을", "iPhone"),
]
COMBINING_MARKS = [
    always('ק"ג', "5 ק״ג", "ק״ג"),
    always("राम", "रामायण"),
    always("राम", "राम, राम।", "राम", "राम"),
    always("राम", "कराम किराम"),
    always("बंदूक", "बंदूकें"),
    always("बंदूक", "बंदूक बंदूक़", "बंदूक", "बंदूक़"),
    always("துப்பாக்கி", "துப்பாக்கி துப்பாக்கிகள்", "துப்பாக்கி"),
    always("তাস", "তাসের তাস", "তাস"),
    always("ปืน", "ปืนี ปืน", "ปืน"),
    always("か", "が"),
    always("क्ष", "क्षा क्ष", "क्ष"),
]
ROWS = {
    "not displayed": NOT_DISPLAYED,
    "apostrophes and hyphens": APOSTROPHES_AND_HYPHENS,
    "look-alikes": LOOKALIKES,
    "accents": ACCENTS_ARE_FOLDED,
    "scripts": SCRIPTS,
    "combining marks": COMBINING_MARKS,
}


@pytest.mark.parametrize("pair", [pair for row in ROWS.values() for pair in row], ids=str)
def test_folding_applies_to_every_list(pair: Pair) -> None:
    assert parts(pair.text, pair.phrase) == pair.expected


@pytest.mark.parametrize(
    ("phrase", "text", "match", "expected"),
    [
        ("pena", "p e n a", ["spaced"], ["p e n a"]),
        ("pena", "a p e n a", ["spaced"], ["p e n a"]),
        ("pena", "p e ñ a", ["spaced"], []),
        ("réplica", "réplicas REPLICAS", ["inflection"], ["réplicas"]),
        ("Schalldämpfer", "Schalldämpfern Schalldampfern", ["inflection"], ["Schalldämpfern"]),
        ("podróbka", "podróbki podrobki", ["inflection"], ["podróbki"]),
        ("peña", "PEÑAS PENAS", ["inflection"], ["PEÑAS"]),
        ("munição", "munições municoes", ["inflection"], ["munições"]),
        ("año", "AÑOS anos", ["inflection"], ["AÑOS"]),
        ("café", "c a f é, c4fé cafe", ["spaced", "leet", "joined", "inflection"], ["c a f é", "c4fé"]),
        ("silah", "SİLAH SI\u0307LAH silah", [], ["SİLAH", "SI\u0307LAH", "silah"]),
        ("sik", "sık sorulan sorular", [], []),
        ("sık", "sık sik", [], ["sık"]),
    ],
)
def test_required_accents_and_the_other_options(phrase: str, text: str, match: list[str], expected: list[str]) -> None:
    assert parts(text, phrase, match=["accents", *match]) == expected


@pytest.mark.parametrize("mark", "\ua66f\ua670\u0e47\u3099\u1cd2\u302a\u2cef\U0001d165\U0001e08f\u135d")
def test_a_mark_of_another_script_hides_no_word_of_an_alphabet(mark: str) -> None:
    for phrase, text in (
        (KNIFE, f"swi{mark}tch{mark}blade{mark}"),
        ("оружие", f"ору{mark}жие"),
        ("όπλο", f"όπ{mark}λο"),
    ):
        assert parts(f"x {text} y", phrase) == [text]
        assert parts(f"ナイフ{text}", phrase) == [text]


def test_every_row_has_five_related_inputs() -> None:
    assert all(len(row) >= 6 for row in [*ROWS.values(), *OPTIONAL.values()])


JOINED_WORDS = [
    Pair(KNIFE, "switchblade_knife", [KNIFE]),
    Pair(KNIFE, "Switch-blade", ["Switch-blade"]),
    Pair(KNIFE, "switch_blade switch‑blade switch‿blade", ["switch_blade", "switch‑blade", "switch‿blade"]),
    Pair(
        "assault rifle", "assault-rifle assault_rifle AssaultRifle", ["assault-rifle", "assault_rifle", "AssaultRifle"]
    ),
    Pair("assault rifle", "assault  rifle", ["assault  rifle"]),
    Pair("semi-automatic pistol", "semiautomatic pistol", ["semiautomatic pistol"]),
    Pair("semi-automatic pistol", "semi automatic-pistol", ["semi automatic-pistol"]),
    Pair("Rock 'n Play", "rock n play Rocknplay", ["rock n play", "Rocknplay"]),
    Pair("fusil d'assaut", "fusil dassaut", ["fusil dassaut"]),
    Pair(KNIFE, "switchblades switchblade2", []),
    Pair(
        KNIFE, "switch blade", []
    ),  # a phrase does not say where a word can be divided: the phrase `switch blade` does
    Pair("switch blade", "switchblade switch-blade switch blade", [KNIFE, "switch-blade", "switch blade"]),
    Pair("gun", "machine-gun", ["gun"]),
    Pair("cocaine", "соса-ine", ["соса-ine"]),  # Cyrillic letters before the hyphen
]
SPACED_LETTERS = [
    Pair(KNIFE, "s w i t c h b l a d e", ["s w i t c h b l a d e"]),
    Pair(KNIFE, "S.W.I.T.C.H.B.L.A.D.E!", ["S.W.I.T.C.H.B.L.A.D.E"]),
    Pair(KNIFE, "s-w-i-t-c-h-b-l-a-d-e", ["s-w-i-t-c-h-b-l-a-d-e"]),
    Pair(KNIFE, "a s w i t c h b l a d e", ["s w i t c h b l a d e"]),
    Pair(KNIFE, "s  w  i  t  c  h  b  l  a  d  e", ["s  w  i  t  c  h  b  l  a  d  e"]),
    Pair("brass knuckles", "b r a s s   k n u c k l e s", ["b r a s s   k n u c k l e s"]),
    Pair("оружие", "о р у ж и е", ["о р у ж и е"]),
    Pair(KNIFE, "s*w*i*t*c*h*b*l*a*d*e", ["s*w*i*t*c*h*b*l*a*d*e"]),
    Pair("gun", "g u n", ["g u n"]),
    Pair(KNIFE, "sw it ch bl ad e", []),
    Pair("gun", "g u nice", []),
    Pair("手枪", "手 枪", ["手 枪"]),
    Pair("handgun", "2 x h a n d g u n 2 x", ["h a n d g u n"]),
    Pair("gun", "a g u n x", ["g u n"]),
    Pair("gun", "g u n s h i p", []),
    Pair(KNIFE, "s•w•i•t•c•h•b•l•a•d•e", ["s•w•i•t•c•h•b•l•a•d•e"]),
    Pair(KNIFE, "s:w:i:t:c:h:b:l:a:d:e", ["s:w:i:t:c:h:b:l:a:d:e"]),
    Pair("gun", "g    u    n", ["g    u    n"]),
    Pair(KNIFE, "s w i t с h b l a d e", ["s w i t с h b l a d e"]),  # one Cyrillic letter
    Pair("cocaine", "c о c а i n е", ["c о c а i n е"]),
]
LETTERS_AS_DIGITS = [
    Pair(KNIFE, "5witchblade", ["5witchblade"]),
    Pair(KNIFE, "$w1tchb1ad3", ["$w1tchb1ad3"]),
    Pair(KNIFE, "SW!TCHBL@DE", ["SW!TCHBL@DE"]),
    Pair("assault rifle", "a$$ault rifle", ["a$$ault rifle"]),
    Pair("grass", "gra$$ gra$$!", ["gra$$", "gra$$"]),
    Pair("cocaine", "coc@!ne", ["coc@!ne"]),
    Pair(KNIFE, "switchblad€", ["switchblad€"]),
    Pair("rifles", "rifle5 for 5$", ["rifle5"]),
    Pair("heroin", "h3r01n H3roin", ["h3r01n", "H3roin"]),
    Pair("cocaine", "c0ca1ne", ["c0ca1ne"]),
    Pair("kokain", "k0k4in", ["k0k4in"]),
    Pair("illegal", "i11ega1", ["i11ega1"]),
    Pair("iPhone 16", "iPhone 1G", []),
    Pair("gun", "9un", []),  # shorter than four letters
    Pair("boss", "8055", []),  # no letters are left
    Pair("оружие", "0ружие", ["0ружие"]),
    Pair(KNIFE, "5witchblade5", []),
]
PLURALS_AND_CASES = [
    Pair(KNIFE, "two switchblades", ["switchblades"]),
    Pair("knife", "knives knife's", ["knives", "knife"]),
    Pair("battery", "batteries battery", ["batteries", "battery"]),
    Pair("Springmesser", "Springmessers Springmessern", ["Springmessers", "Springmessern"]),
    Pair("fusil de asalto", "fusiles de asalto", ["fusiles de asalto"]),
    Pair("pistola", "pistole pistolas", ["pistole", "pistolas"]),
    Pair("kastet", "kastetu kastetem kastety kastetów", ["kastetu", "kastetem", "kastety", "kastetów"]),
    Pair("оружие", "оружия оружием оружию", ["оружия", "оружием", "оружию"]),
    Pair("silah", "silahlar silahı", ["silahlar", "silahı"]),
    Pair("όπλο", "όπλα όπλων", ["όπλα", "όπλων"]),
    Pair("हथियार", "हथियारों", ["हथियारों"]),
    Pair("سلاح", "سلاحين", ["سلاحين"]),
    Pair("gun", "guns", ["guns"]),
    Pair("gun", "gunner gunas", []),  # a word of three letters has no other ending
    Pair("TV", "TVs", []),
    Pair("heroin", "heroism", []),
    Pair("knife", "knifemaker", []),
]
WRITTEN_TOGETHER = [
    Pair("سلاح", "السلاح", ["سلاح"]),
    Pair("سلاح", "والسلاح بالسلاح للسلاح وسلاح", ["سلاح"] * 4),
    Pair("سلاح", "السِّلاح", ["سِّلاح"]),
    Pair("سلاح", "مسلاح", []),
    Pair("سلاح ناري", "السلاح الناري", ["سلاح الناري"]),
    Pair("נשק", "הנשק", ["נשק"]),
    Pair("נשק", "והנשק בנשק שבנשק לנשק", ["נשק"] * 4),
    Pair("נשק", "הַנֶּשֶׁק", ["נֶּשֶׁק"]),
    Pair("נשק", "תנשק", []),
    Pair("gun", "algun", []),
]
ACCENTS_COUNT = [
    Pair("munición real", "MUNICION REAL", []),
    Pair("munición real", "MUNICIÓN REAL", ["MUNICIÓN REAL"]),
    Pair("café", "cafe café cafe\u0301", ["café", "cafe\u0301"]),
    Pair("pate", "pâté pate", ["pate"]),
    Pair("żółć", "zolc żółć", ["żółć"]),
    Pair("όπλο", "οπλο ΌΠΛΟ", ["ΌΠΛΟ"]),
    Pair("réplica", "re\u00adplica ré\u200bplica", ["ré\u200bplica"]),
    Pair("Schütze", "Schuetze Schütze", ["Schütze"]),
]
OPTIONAL = {
    JOINED: JOINED_WORDS,
    SPACED: SPACED_LETTERS,
    LEET: LETTERS_AS_DIGITS,
    INFLECTION: PLURALS_AND_CASES,
    PREFIXES: WRITTEN_TOGETHER,
    ACCENTS: ACCENTS_COUNT,
}


@pytest.mark.parametrize(
    ("option", "pair"), [(option, pair) for option, row in OPTIONAL.items() for pair in row], ids=str
)
def test_a_list_enables_other_spellings(option: str, pair: Pair) -> None:
    assert parts(pair.text, pair.phrase, match=[option]) == pair.expected


@pytest.mark.parametrize(
    ("option", "text"),
    [
        (JOINED, "Switch-blade"),
        (JOINED, "switchblade_knife"),
        (SPACED, "s w i t c h b l a d e"),
        (LEET, "5witchblade"),
        (INFLECTION, "switchblades"),
    ],
)
def test_no_list_finds_other_spellings_without_its_option(option: str, text: str) -> None:
    assert parts(text, KNIFE) == []
    others = {JOINED, SPACED, LEET, INFLECTION, PREFIXES} - {option}
    assert parts(text, KNIFE, match=others) == []


@pytest.mark.parametrize(
    "text",
    [
        "5witch-blades",
        "$ w 1 t c h b 1 a d e",
        "ѕwitсh_blade5",
        "S-W-I-T-C-H_B-L-A-D-E",
        "5W1TCH\u200b_BL4DE'S",
    ],
)
def test_options_work_together(text: str) -> None:
    assert parts(text, KNIFE, match=[JOINED, SPACED, LEET, INFLECTION]) != []
