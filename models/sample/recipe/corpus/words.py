"""The words of the small world in which all generated text plays."""

NAMES = """
    Anna Ben Clara David Ella Finn Grace Henry Ivy Jack Kate Leo Mia Noah Olive Peter Rosa Sam Tess Will Zoe Maya
    Omar Lin Hugo Nina Paul Ruth Tom Vera Max Lucy Emma Owen Daisy Jonas Lena Milo Nora Oscar
""".split()

# Who of them is "she" in a story.
SHE_NAMES = """
    Anna Clara Ella Grace Ivy Kate Mia Olive Rosa Tess Zoe Maya Lin Nina Ruth Vera Lucy Emma Daisy Lena Nora
""".split()

ANIMALS = """
    fox rabbit bear mouse frog owl duck cat dog horse hen sheep goat pig squirrel hedgehog turtle crow robin wolf
    beaver donkey
""".split()

COLORS = """
    red blue green yellow white black brown pink orange purple silver golden
""".split()

THINGS = """
    ball kite lamp book box cup key hat boat drum coat bell basket spoon stone shell button ribbon clock letter map
    ring bottle blanket umbrella candle pencil whistle bag mirror
""".split()

PLACES = """
    kitchen garden barn forest river hill school market bridge attic cellar meadow library harbour mill orchard
    bakery pond tower station
""".split()

SPOTS = [
    "under the bed",
    "on the shelf",
    "behind the door",
    "in the drawer",
    "under the old tree",
    "next to the well",
    "on the table",
    "in the tall grass",
    "beside the fire",
    "behind the barn",
    "in the big chest",
    "under the stairs",
]

FOODS = """
    bread soup cake honey apples cheese pie milk porridge berries nuts pancakes carrots plums
""".split()

ADJECTIVES = """
    little kind old clever brave shy funny quiet lazy busy gentle hungry proud careful merry
""".split()

MOODS = """
    happy sad angry tired proud afraid surprised bored excited lonely
""".split()

WEATHERS = [
    "the sun was shining",
    "it was raining",
    "the wind was strong",
    "snow was falling",
    "it was a warm evening",
    "there was fog everywhere",
    "the sky was clear and blue",
    "it was a cold morning",
]

CITIES = """
    Paris Rome Tokyo Madrid Berlin London Vienna Athens Lisbon Dublin Oslo Cairo Delhi Lima Prague Warsaw Boston
    Sydney Moscow Beijing Hamburg Geneva Naples Kyoto
""".split()

DAYS = """
    Monday Tuesday Wednesday Thursday Friday Saturday Sunday
""".split()

MONTHS = """
    January February March April May June July August September October November December
""".split()

# The word of each number, from zero.
NUMBER_WORDS = """
    zero one two three four five six seven eight nine ten eleven twelve
""".split()
