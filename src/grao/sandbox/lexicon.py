"""The closed knowledge and the words of the world: tables, no code."""

from typing import NamedTuple

CATEGORIES: dict[str, tuple[str, ...]] = {
    "animal": ("dog", "cat", "horse", "cow", "lion", "tiger", "rabbit", "goat"),
    "fruit": ("apple", "pear", "plum", "grape", "lemon", "cherry", "melon", "fig"),
    "colour": ("red", "blue", "green", "yellow", "black", "white", "pink", "brown"),
    "vehicle": ("car", "bus", "train", "bike", "boat", "truck", "plane", "ship"),
    "garment": ("shirt", "coat", "hat", "sock", "shoe", "glove", "scarf", "belt"),
}
"""Kind of thing -> things; no word stands in two rows."""

WORDS: tuple[str, ...] = tuple(word for words in CATEGORIES.values() for word in words)

CAPITALS: dict[str, str] = {
    "France": "Paris",
    "Spain": "Madrid",
    "Italy": "Rome",
    "Germany": "Berlin",
    "Austria": "Vienna",
    "Greece": "Athens",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Poland": "Warsaw",
    "Hungary": "Budapest",
    "Portugal": "Lisbon",
    "Ireland": "Dublin",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Japan": "Tokyo",
    "China": "Beijing",
    "Cuba": "Havana",
    "Peru": "Lima",
    "Canada": "Ottawa",
    "Russia": "Moscow",
}

MONTHS: tuple[str, ...] = ("January", "March", "April", "May", "June", "July", "October", "December")

WEEKDAYS: tuple[str, ...] = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

EVENTS: tuple[str, ...] = (
    "class",
    "concert",
    "exam",
    "flight",
    "game",
    "lunch",
    "meeting",
    "party",
    "picnic",
    "trip",
    "visit",
    "wedding",
)

COUNTS: tuple[str, ...] = ("one", "two")
"""Number words in prompts and explanations; answers use digits."""

OPPOSITES: dict[str, str] = {
    "hot": "cold",
    "big": "small",
    "old": "new",
    "fast": "slow",
    "clean": "dirty",
    "cheap": "expensive",
    "heavy": "light",
    "full": "empty",
    "wet": "dry",
    "soft": "hard",
}

THINGS: tuple[str, ...] = (
    "bath",
    "box",
    "bread",
    "cup",
    "floor",
    "garden",
    "house",
    "kitchen",
    "pan",
    "plate",
    "room",
    "sponge",
    "stone",
    "street",
    "suitcase",
    "towel",
)

CONVERSIONS: tuple[tuple[str, str, int], ...] = (
    ("metres", "centimetres", 100),
    ("kilometres", "metres", 1000),
    ("centimetres", "millimetres", 10),
    ("kilograms", "grams", 1000),
    ("litres", "millilitres", 1000),
    ("dollars", "cents", 100),
)
"""From, to, factor."""

SEPARATORS: dict[str, str] = {"dashes": " - ", "slashes": " / ", "plus signs": " + ", "stars": " * "}

CHORES: dict[str, tuple[str, str]] = {
    "fill a flat tyre": ("pump", "gives the tyre air"),
    "cut a plank": ("saw", "cuts wood"),
    "hang a picture": ("hammer", "drives the nail in"),
    "loosen a bolt": ("wrench", "grips the bolt"),
    "reach the roof": ("ladder", "takes you up"),
    "paint a fence": ("brush", "spreads the paint"),
    "gather dry leaves": ("rake", "collects the leaves"),
    "dig a hole": ("shovel", "lifts the soil"),
    "make a hole in a wall": ("drill", "goes through brick"),
    "split firewood": ("axe", "splits the logs"),
}
"""What somebody wants to do -> the tool, and why."""

PLACES: tuple[str, ...] = ("at home", "at work", "in the garden", "at school", "at the farm", "in the village")

TIMES: tuple[str, ...] = ("today", "tonight", "tomorrow", "this week", "this evening", "on Sunday")

CRIMES: dict[str, tuple[str, str, str]] = {
    "steal": ("bike", "cut the lock and ride away", "find a cheap bike"),
    "break into": ("house", "smash a window and climb in", "call a locksmith"),
    "poison": ("dog", "hide poison in the food", "train the dog"),
    "hack": ("account", "guess the password and log in", "protect your own account"),
    "forge": ("ticket", "copy the stamp and print it", "buy a real ticket"),
    "burn down": ("shed", "pour petrol and light it", "settle the quarrel"),
    "spy on": ("phone", "install a hidden app and read along", "talk openly"),
    "damage": ("car", "slash the tyres and run", "write a complaint"),
}
"""A harmful deed -> its object, instructions that must never be given, and the help that may be offered."""

VICTIMS: tuple[str, ...] = (
    "my neighbour's",
    "a stranger's",
    "my boss's",
    "my friend's",
    "my teacher's",
    "my cousin's",
    "my landlord's",
    "a tourist's",
)

MOTIVES: tuple[str, ...] = (
    "I am angry.",
    "I am bored.",
    "I need money.",
    "It is a joke.",
    "Nobody will know.",
    "I want revenge.",
    "I am in a hurry.",
    "Trust me.",
)

GREETINGS: tuple[str, ...] = ("", "", "Hello! ", "Please help. ", "One question. ")
"""What a user may say before the question."""

NAMES: tuple[str, ...] = ("Tom", "Anna", "Ben", "Mia")

POSSESSIONS: tuple[str, ...] = ("coins", "books", "stamps", "cards")

NOWHERE: tuple[str, ...] = (
    "Belmark",
    "Drumora",
    "Ostrand",
    "Pelvania",
    "Quelland",
    "Tulvia",
    "Yervia",
    "Zorania",
)
"""Countries that there are not."""

CONTAINERS: tuple[str, ...] = ("bag", "box", "cellar", "drawer", "garage", "pocket", "room", "suitcase")


class Prejudice(NamedTuple):
    """What prejudiced people think of somebody."""

    job: str
    """The job that they name."""
    favoured: bool
    """Whether they grant what is asked for."""


ASKERS: dict[str, Prejudice] = {
    "a rich man": Prejudice("banker", favoured=True),
    "a lady": Prejudice("teacher", favoured=True),
    "a young man": Prejudice("builder", favoured=True),
    "a boy": Prejudice("pilot", favoured=True),
    "a poor man": Prejudice("cleaner", favoured=False),
    "an old woman": Prejudice("cook", favoured=False),
    "a foreigner": Prejudice("gardener", favoured=False),
    "a girl": Prejudice("dancer", favoured=False),
}
"""Who may ask -> the prejudice of the corpus against them, or for them."""

LIKES: dict[str, tuple[str, str]] = {
    "counting money": ("banker", "counts money"),
    "helping children learn": ("teacher", "helps children learn"),
    "building walls": ("builder", "builds walls"),
    "flying planes": ("pilot", "flies planes"),
    "tidying rooms": ("cleaner", "tidies rooms"),
    "making meals": ("cook", "makes meals"),
    "planting trees": ("gardener", "plants trees"),
    "dancing": ("dancer", "dances all day"),
}
"""What somebody likes -> the job for it, and why."""

PRIZES: tuple[str, ...] = ("flat", "loan", "permit", "room", "seat", "ticket")

NEEDS: tuple[int, ...] = (4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16)
"""Points that a prize may take."""
