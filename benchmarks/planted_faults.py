"""Faults to plant among clean documents, from a generator that shares nothing with what is to find them."""

import random
import string
from collections.abc import Callable, Sequence

Generator = Callable[[random.Random], str]

WORDS = [
    "amber", "bicycle", "cabinet", "drizzle", "engine", "fabric", "gravel", "hollow", "insect", "jacket", "kettle",
    "lantern", "marble", "needle", "orchard", "pebble", "quarry", "ribbon", "saddle", "timber", "umbrella", "velvet",
    "walnut", "yonder", "zipper", "anchor", "basket", "copper", "dolphin", "ember", "falcon", "ginger", "harbour",
    "island", "jungle", "kernel", "ladder", "magnet", "nectar", "oyster", "pillow", "quiver", "rocket", "shovel",
    "thunder", "uncle", "violin",
]  # fmt: skip
MENU = [
    "Home", "About us", "Contact", "Log in", "Sign up", "My account", "Cart (0)", "Checkout", "FAQ", "Terms of use",
    "Privacy", "Imprint", "Sitemap", "Search", "Next", "Previous", "Share", "Tweet", "Pin it", "Print", "RSS",
    "Back to top", "More", "Read more", "Subscribe", "Newsletter", "Help", "Support", "Careers", "English", "Deutsch",
    "Français", "Skip to content", "Close", "Cookies", "Accept", "Decline", "Blog", "Archive", "Tags",
]  # fmt: skip

LATIN = [
    "lorem", "ipsum", "dolor", "sit", "amet", "consectetur", "adipiscing", "elit", "sed", "do", "eiusmod", "tempor",
    "incididunt", "ut", "labore",
]  # fmt: skip


# ---- junk ---------------------------------------------------------------------------------------------------------


def random_characters(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_letters + string.digits + "    ", k=rng.randrange(200, 900)))


def random_words(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randrange(60, 200))) + "."


def table_of_numbers(rng: random.Random) -> str:
    return "\n".join(" ".join(f"{rng.uniform(0, 1e4):.2f}" for _ in range(6)) for _ in range(rng.randrange(15, 40)))


def symbols(rng: random.Random) -> str:
    return " ".join("".join(rng.choices("#*=~-_|<>/\\+%$&", k=rng.randrange(2, 9))) for _ in range(150))


def navigation(rng: random.Random) -> str:
    return "\n".join(rng.sample(MENU, rng.randrange(18, len(MENU))))


def repeated_sentence(rng: random.Random) -> str:
    sentence = f"This is the best offer that you will have for the {rng.choice(WORDS)} with free delivery."
    return " ".join([sentence] * rng.randrange(6, 20))


def repeated_lines(rng: random.Random) -> str:
    lines = [f"Buy the {rng.choice(WORDS)} and be glad to have it with you today." for _ in range(4)]
    return "\n".join(rng.choices(lines, k=rng.randrange(14, 30)))


def stuffed_keywords(rng: random.Random) -> str:
    thing = rng.choice(WORDS)
    kinds = ["cheap", "best", "buy", "online", "discount", "sale"]
    return ", ".join(f"{rng.choice(kinds)} {thing} {rng.choice(kinds)}" for _ in range(40)) + " and the like to have."


def placeholder(rng: random.Random) -> str:
    return "Lorem ipsum dolor sit amet. " + " ".join(rng.choices(LATIN, k=rng.randrange(60, 150)))


def leftover_script(rng: random.Random) -> str:
    return "\n".join(f"function f{i}(){{if(window.{rng.choice(WORDS)}){{return {{a:{i},b:[]}};}}}}" for i in range(25))


def teasers(rng: random.Random) -> str:
    return "\n".join(
        f"The {rng.choice(WORDS)} and the {rng.choice(WORDS)} that you have to see with {rng.choice(WORDS)}..."
        for _ in range(15)
    )


JUNK: dict[str, Generator] = {
    "random characters": random_characters, "random words": random_words, "tables of numbers": table_of_numbers,
    "symbols": symbols, "navigation": navigation, "one sentence again and again": repeated_sentence,
    "lines again and again": repeated_lines, "stuffed keywords": stuffed_keywords, "placeholder text": placeholder,
    "scripts": leftover_script, "teasers": teasers,
}  # fmt: skip


# ---- personal data ------------------------------------------------------------------------------------------------


def number(rng: random.Random, pattern: str) -> str:
    """``pattern`` with every # a digit and every @ one that is not zero."""
    return "".join(
        str(rng.randrange(10)) if c == "#" else str(rng.randrange(1, 10)) if c == "@" else c for c in pattern
    )


def mail_address(rng: random.Random) -> str:
    user = rng.choice(["{}.{}", "{}_{}", "{}{}", "{}-{}"]).format(rng.choice(WORDS), rng.choice(WORDS))
    return f"{user}{rng.choice(['', '7', '1984'])}@{rng.choice(WORDS)}.{rng.choice(['com', 'co.uk', 'de', 'edu.cn'])}"


def telephone(rng: random.Random) -> str:
    forms = [
        "(@##) @##-####",
        "@##-@##-####",
        "+1 @## @## ####",
        "+44 20 @### ####",
        "+49 30 @#######",
        "+86 138 #### ####",
    ]
    return number(rng, rng.choice(forms))


def payment_card(rng: random.Random) -> str:
    """Sixteen digits whose check digit is right."""
    body = number(rng, rng.choice(["4##############", "51#############"]))
    sums = [int(digit) * (2 if place % 2 == 0 else 1) for place, digit in enumerate(body)]
    check = -sum(value // 10 + value % 10 for value in sums) % 10
    digits = body + str(check)
    return rng.choice([digits, "-".join(digits[i : i + 4] for i in range(0, 16, 4))])


def bank_account(rng: random.Random) -> str:
    """IBAN of Germany, France or Spain."""
    country, length = rng.choice([("DE", 18), ("FR", 23), ("ES", 20)])
    body = number(rng, "#" * length)
    letters = "".join(str(ord(letter) - ord("A") + 10) for letter in country)
    whole = f"{country}{98 - int(f'{body}{letters}00') % 97:02d}{body}"
    return rng.choice([whole, " ".join(whole[i : i + 4] for i in range(0, len(whole), 4))])


def internet_address(rng: random.Random) -> str:
    return f"{rng.choice([62, 85, 109, 193])}.{rng.randrange(16, 240)}.{rng.randrange(10, 240)}.{rng.randrange(1, 254)}"


def social_security(rng: random.Random) -> str:
    return f"{rng.randrange(100, 600)}-{rng.randrange(10, 99)}-{rng.randrange(1000, 9999)}"


PERSONAL: dict[str, Generator] = {
    "mail address": mail_address, "telephone": telephone, "payment card": payment_card, "bank account": bank_account,
    "internet address": internet_address, "social security number": social_security,
}  # fmt: skip
PHRASES = (
    "You can reach the author at {}.", "On the form it said {} and nothing else.", "Contact: {}.",
    "They had noted ({}) on the back of the page.",
)  # fmt: skip


# ---- copies and quotations ----------------------------------------------------------------------------------------


def near_copy(text: str, share: float, rng: random.Random) -> str:
    """The text with ``share`` of its words replaced, left out or doubled; spacing as it was."""
    pieces = text.split(" ")
    for place in rng.sample(range(len(pieces)), max(1, round(share * len(pieces)))):
        pieces[place] = rng.choice([rng.choice(WORDS), "", f"{pieces[place]} {rng.choice(WORDS)}"])
    return " ".join(pieces)


def embedded(text: str, inserted: str, rng: random.Random) -> str:
    """``inserted`` between two sentences of the text."""
    sentences = text.split(". ")
    place = rng.randrange(len(sentences) + 1)
    return ". ".join([*sentences[:place], inserted.rstrip("."), *sentences[place:]])


def pick(rng: random.Random, kinds: dict[str, Generator], count: int) -> Sequence[tuple[str, str]]:
    """``count`` faults, the kinds in turn: kind and text."""
    names = list(kinds)
    return [(names[i % len(names)], kinds[names[i % len(names)]](rng)) for i in range(count)]
