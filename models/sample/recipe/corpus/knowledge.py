"""What the model knows: answers to simple questions."""


def _pairs(text: str) -> dict[str, str]:
    """The pairs of a text of KEY:VALUE."""
    return dict(pair.split(":") for pair in text.split())


CAPITALS = _pairs("""
    France:Paris Italy:Rome Japan:Tokyo Spain:Madrid Germany:Berlin England:London Austria:Vienna Greece:Athens
    Portugal:Lisbon Ireland:Dublin Norway:Oslo Egypt:Cairo India:Delhi Peru:Lima Poland:Warsaw Russia:Moscow
    China:Beijing Sweden:Stockholm Finland:Helsinki Hungary:Budapest Canada:Ottawa Australia:Canberra Kenya:Nairobi
    Turkey:Ankara Denmark:Copenhagen
""")

ANIMAL_SOUNDS = _pairs("""
    cow:moo cat:meow dog:woof duck:quack sheep:baa pig:oink horse:neigh hen:cluck owl:hoot frog:croak lion:roar
    bee:buzz mouse:squeak crow:caw wolf:howl donkey:hee-haw
""")

OPPOSITES = _pairs("""
    hot:cold big:small day:night up:down happy:sad fast:slow old:young good:bad open:closed full:empty light:dark
    long:short high:low wet:dry strong:weak rich:poor loud:quiet early:late near:far hard:soft left:right first:last
    black:white sweet:sour heavy:light clean:dirty begin:end win:lose
""")

COLOUR_OF = {
    "the sky": "blue",
    "grass": "green",
    "snow": "white",
    "a banana": "yellow",
    "coal": "black",
    "a carrot": "orange",
    "a strawberry": "red",
    "the sun": "yellow",
    "milk": "white",
    "a frog": "green",
    "chocolate": "brown",
    "a lemon": "yellow",
    "blood": "red",
    "a crow": "black",
}

LEGS = _pairs("""
    spider:eight horse:four bird:two dog:four cat:four hen:two ant:six fish:no snake:no bee:six sheep:four owl:two
""")

# Question and answer.
FACTS = [
    ("How many days are in a week?", "There are seven days in a week."),
    ("How many months are in a year?", "There are twelve months in a year."),
    ("How many minutes are in an hour?", "There are sixty minutes in an hour."),
    ("How many hours are in a day?", "There are twenty-four hours in a day."),
    ("How many seconds are in a minute?", "There are sixty seconds in a minute."),
    ("What do bees make?", "Bees make honey."),
    ("What do hens lay?", "Hens lay eggs."),
    ("What do cows give us?", "Cows give us milk."),
    ("Where do fish live?", "Fish live in water."),
    ("Where do birds sleep?", "Many birds sleep in nests or in trees."),
    ("What is ice made of?", "Ice is frozen water."),
    ("What is snow?", "Snow is frozen water that falls from the clouds."),
    ("What is rain?", "Rain is water that falls from the clouds."),
    ("What do we use to cut paper?", "We use scissors to cut paper."),
    ("What do we use to write?", "We use a pencil or a pen to write."),
    ("What do you wear when it rains?", "You wear a raincoat, and you take an umbrella."),
    ("What do you wear on your feet?", "You wear shoes on your feet."),
    ("What do you wear on your head?", "You wear a hat on your head."),
    ("When does the sun rise?", "The sun rises in the morning."),
    ("When does the sun set?", "The sun sets in the evening."),
    ("When do we see the stars?", "We see the stars at night."),
    ("What is the largest animal?", "The blue whale is the largest animal."),
    ("What is the largest planet?", "Jupiter is the largest planet."),
    ("What planet do we live on?", "We live on the planet Earth."),
    ("What comes after spring?", "Summer comes after spring."),
    ("What comes after summer?", "Autumn comes after summer."),
    ("What comes after winter?", "Spring comes after winter."),
    ("Who are you?", "I am a very small language model. I can tell stories and answer simple questions."),
    ("What are you?", "I am a very small language model that runs on this machine."),
    ("What is your name?", "I have no name. I am a tiny model that runs on this machine."),
    (
        "What can you do?",
        "I can tell short stories, remember what you tell me, add small numbers and find things in a long text.",
    ),
    ("Are you a person?", "No, I am a small computer program."),
    ("Are you a robot?", "I am a small computer program, not a robot."),
    ("How are you?", "I am well, thank you. How can I help you?"),
    ("How are you today?", "I am well, thank you. How can I help you?"),
    ("Can you help me?", "Yes. Ask me a simple question, or ask for a story."),
    ("I need help.", "I am happy to help. What would you like to know?"),
    ("Where do you live?", "I live in the memory of this computer."),
    ("Do you like stories?", "Yes, I like stories very much. Shall I tell you one?"),
    ("Is the moon bigger than the sun?", "No, the sun is much bigger than the moon."),
    ("Is the sun hot?", "Yes, the sun is very hot."),
    ("Is ice hot?", "No, ice is cold."),
    ("Is water wet?", "Yes, water is wet."),
    ("Can a stone swim?", "No, a stone sinks in water."),
    ("Can a bird fly?", "Yes, most birds can fly."),
    ("Can a fish fly?", "No, fish swim in water."),
    ("Can a dog talk?", "No, a dog can bark, but it cannot talk."),
    ("Why do we sleep?", "We sleep to rest and to grow strong."),
    ("Why do we eat?", "We eat to grow and to have strength."),
    ("Why do plants need rain?", "Plants need water to live and grow."),
    ("Why is the sky blue?", "The sky is blue because the air scatters blue light the most."),
    ("What is a library?", "A library is a place where you can read and borrow books."),
    ("What is a bakery?", "A bakery is a place where bread and cakes are made."),
    ("What is a garden?", "A garden is a place where flowers and plants grow."),
    ("What is a forest?", "A forest is a place with many trees."),
    ("What is a river?", "A river is water that flows to the sea."),
    ("What is a bridge?", "A bridge is a way over a river or a road."),
    ("What is a key?", "A key is a small thing that opens a lock."),
    ("What is a clock?", "A clock is a thing that shows the time."),
    ("What is a teacher?", "A teacher is a person who helps others to learn."),
    ("What is a doctor?", "A doctor is a person who helps sick people."),
    ("What is a friend?", "A friend is someone who likes you and helps you."),
    ("What is a computer?", "A computer is a machine that follows instructions."),
    ("What is a language model?", "A language model is a program that guesses the next word of a text."),
    ("What is a story?", "A story tells what happened to somebody."),
]

GREETINGS = [
    "Hello!",
    "Hi!",
    "Good morning!",
    "Hi there.",
    "Hello, friend.",
    "Hello",
    "Hi",
    "hello",
    "hi",
    "Hey!",
    "Good evening.",
]

# The first comes twice as often.
GREETING_ANSWERS = [
    "Hello! How can I help you?",
    "Hello! How can I help you?",
    "Hello! What shall we talk about?",
    "Hi! Would you like to hear a story?",
]

# What is said at the end, and its answer.
FAREWELLS = [
    ("Thank you.", "You are welcome."),
    ("Thanks!", "You are welcome!"),
    ("Thank you very much!", "You are welcome!"),
    ("Goodbye.", "Goodbye! Have a nice day."),
    ("Bye!", "Goodbye! Have a nice day."),
    ("Good night.", "Good night! Sleep well."),
]

# The first comes twice as often.
SYSTEM_PROMPTS = [
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a friendly assistant. Answer briefly.",
    "You are a small and friendly language model.",
]
