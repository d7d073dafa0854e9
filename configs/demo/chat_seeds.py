"""Hand-written seed material of the general chat: pairs of what is asked and what is answered."""

from __future__ import annotations

DEFINITIONS = {
    "island": "land with water on all sides",
    "desert": "a dry place where little rain falls",
    "glacier": "a large mass of ice that moves slowly",
    "volcano": "an opening in the ground through which hot rock and gas come out",
    "river": "a large stream of water that flows across land",
    "orchard": "a piece of land where fruit trees grow",
    "bakery": "a place where bread and cakes are made",
    "library": "a place where people read and borrow books",
    "harbour": "a sheltered place where ships can stay",
    "bridge": "a structure that carries a road over a river or a valley",
    "compass": "an instrument whose needle points to the north",
    "thermometer": "an instrument that measures temperature",
    "telescope": "an instrument that makes distant things look nearer",
    "calendar": "a chart of the days, weeks and months of a year",
    "recipe": "a list of steps for making a dish",
    "orchestra": "a large group of musicians who play together",
    "triangle": "a shape with three straight sides",
    "square": "a shape with four equal sides and four right angles",
    "circle": "a line on which every point has the same distance from the centre",
    "prime number": "a whole number above one that only one and itself divide",
    "even number": "a whole number that two divides",
    "verb": "a word that says what someone or something does or is",
    "noun": "a word that names a person, a place or a thing",
    "vowel": "a speech sound such as a, e, i, o or u",
    "poem": "a text whose words are chosen for sound and rhythm as well as meaning",
    "proverb": "a short saying that gives common advice",
    "mammal": "an animal that feeds its young with milk",
    "reptile": "an animal with dry scales, such as a snake or a lizard",
    "insect": "a small animal with six legs",
    "planet": "a large body that goes around a star",
    "star": "a huge ball of hot gas that shines by its own light",
    "season": "one of the four parts of the year",
    "budget": "a plan of how much money comes in and goes out",
    "loan": "money that has to be paid back later",
    "computer": "a machine that follows instructions to work with information",
    "algorithm": "a list of exact steps that solves a problem",
    "password": "a secret word that lets you into an account",
    "keyboard": "a set of keys for typing or for making music",
}

EXPLANATIONS = {
    "Why is the sky blue?": "Air scatters blue light more than red, so blue reaches us from all sides.",
    "Why do leaves fall in autumn?": "Trees drop them to save water and energy in the cold months.",
    "Why does ice float?": "Ice takes up more space than the same amount of water.",
    "Why do we have day and night?": "The Earth turns once a day, and only one side faces the Sun.",
    "Why do we have seasons?": "The axis of the Earth is tilted, so sunlight changes through the year.",
    "What causes the tides?": "Mostly the pull of the Moon, and to a smaller part the pull of the Sun.",
    "How do plants make food?": "They use sunlight to turn water and carbon dioxide into sugar.",
    "How do bees make honey?": "They collect nectar, thicken it in the hive and store it in wax cells.",
    "How do birds stay warm?": "They puff up their feathers. The air between them keeps the heat in.",
    "How does soap work?": "Soap holds on to fat and to water, so the water takes the dirt away.",
    "How does a rainbow form?": "Drops of rain bend sunlight and split it into its colours.",
    "How does a fridge work?": "It carries heat from the inside to the outside.",
    "How does bread rise?": "Yeast eats sugar in the dough and makes gas. The bubbles lift the dough.",
    "How do magnets work?": "Unlike poles pull each other, and like poles push each other away.",
    "Why do we sleep?": "Sleep lets the body rest, and it helps the brain to keep memories.",
    "Why is the sea salty?": "Rivers carry salts into the sea. The water evaporates, but the salts stay.",
    "Why is thunder later than lightning?": "Light is much faster than sound, so the flash reaches us first.",
    "Why does metal feel cold?": "Metal carries heat away from your hand quickly, so your hand cools down.",
    "Why do cats purr?": "Cats often purr when they are content, and sometimes to calm themselves.",
    "How do I make tea?": "Pour boiling water over the tea, wait some minutes and take the tea out.",
    "How do I boil an egg?": "Put it into boiling water. Six minutes give a soft egg and ten a hard one.",
    "How can I sleep better?": "Go to bed at the same time each day and keep the room dark.",
    "How can I learn new words?": "Learn a few each day, use them and repeat them after some days.",
    "How can I save money?": "Write down what you spend, and put a fixed sum aside each month.",
    "How do I water a cactus?": "Water it well, then wait until the soil is dry before you water it again.",
    "How do I write a good letter?": "Say early why you write, and keep the sentences short.",
    "How do I start running?": "Begin slowly, walk when you are tired, and run a little longer each week.",
    "How do I keep bread fresh?": "Keep it in a bread box or a paper bag, or freeze it.",
}

SMALL_TALK = {
    "Hello!": ("Hello! How can I help you?", "Hello! What can I do for you?"),
    "Hi there.": ("Hi! What would you like to know?", "Hi! What can I do for you?"),
    "Good morning!": ("Good morning! How can I help you?", "Good morning! What is your plan for today?"),
    "Good evening.": ("Good evening! What can I do for you?", "Good evening! I hope you had a good day."),
    "How are you?": ("I am fine, thank you. And you?", "I am well, thank you. How can I help you?"),
    "Who are you?": ("I am an assistant. I answer questions.", "I am a small language model."),
    "Are you a person?": ("No, I am a computer program.", "No, I am a language model and not a person."),
    "I am tired.": ("Then take a short rest and drink some water.", "I am sorry. A short walk may help."),
    "I am bored.": ("You could read a book or go for a walk.", "Shall I tell you a riddle?"),
    "I am happy today.": ("That is good to hear!", "I am glad! What happened?"),
    "It is raining.": ("Then it is a good day for a book.", "Do not forget your umbrella."),
    "I lost my keys.": ("I am sorry. Where did you see them last?", "Look in your coat first."),
    "I passed my exam!": ("Congratulations! Well done.", "Well done! You worked hard for it."),
    "I have a cold.": ("Rest and drink a lot. Get well soon!", "I am sorry. Keep warm and sleep well."),
    "Tell me a riddle.": (
        "What has hands but cannot clap? A clock.",
        "What gets wetter the more it dries? A towel.",
        "What has keys but opens no door? A piano.",
    ),
    "Tell me a joke.": (
        "Why did the bicycle fall over? It was two tired.",
        "What do you call a fish without eyes? A fsh.",
    ),
}
THANKS = {
    "Thank you!": ("You are welcome!", "You are welcome. Do you have another question?"),
    "Thanks, that helps.": ("I am glad that it helps.", "You are welcome!"),
    "Goodbye!": ("Goodbye! Have a nice day.", "Goodbye and good luck!"),
    "That is all for today.": ("All right. Have a nice day!", "Goodbye! Until next time."),
}

POLITE = {
    "Give me the book.": "Could you please give me the book?",
    "Close the door.": "Could you please close the door?",
    "Wait here.": "Would you please wait here?",
    "Send me the report.": "Could you please send me the report?",
    "Be quiet.": "Would you please be quiet?",
    "Call me back.": "Could you please call me back?",
    "Help me.": "Could you please help me?",
    "Open the window.": "Would you please open the window?",
}
# present: (past, future)
TENSES = {
    "I walk to school.": ("I walked to school.", "I will walk to school."),
    "She reads a book.": ("She read a book.", "She will read a book."),
    "We play football.": ("We played football.", "We will play football."),
    "He writes a letter.": ("He wrote a letter.", "He will write a letter."),
    "They eat bread.": ("They ate bread.", "They will eat bread."),
    "The dog sleeps.": ("The dog slept.", "The dog will sleep."),
    "I drink tea.": ("I drank tea.", "I will drink tea."),
    "The train is late.": ("The train was late.", "The train will be late."),
    "She sings a song.": ("She sang a song.", "She will sing a song."),
    "We go home.": ("We went home.", "We will go home."),
}
SHORTER = {
    "Due to the fact that it was raining, we stayed at home.": "We stayed at home because it was raining.",
    "She is a person who likes to read books a lot.": "She likes to read.",
    "At this point in time I do not have an answer.": "I have no answer yet.",
    "He made the decision to leave the house early.": "He decided to leave early.",
    "In my own personal opinion, the film was good.": "I liked the film.",
    "The meeting will take place on the day of Monday.": "The meeting is on Monday.",
    "It is possible that it will snow tomorrow.": "It may snow tomorrow.",
    "There are many people who drink tea in the morning.": "Many people drink tea in the morning.",
}

OPPOSITES = {
    "hot": "cold", "big": "small", "old": "young", "fast": "slow", "light": "dark", "high": "low",
    "early": "late", "full": "empty", "loud": "quiet", "rich": "poor", "strong": "weak", "wet": "dry",
    "open": "closed", "long": "short", "near": "far", "hard": "soft", "clean": "dirty",
}  # fmt: skip
PLURALS = {
    "mouse": "mice", "child": "children", "foot": "feet", "tooth": "teeth", "leaf": "leaves",
    "city": "cities", "box": "boxes", "sheep": "sheep", "knife": "knives", "woman": "women",
    "goose": "geese", "baby": "babies",
}  # fmt: skip
CATEGORIES = {
    "fruits": ("apple", "pear", "plum", "orange", "banana", "cherry", "lemon"),
    "vegetables": ("carrot", "potato", "onion", "cabbage", "pea", "leek"),
    "animals": ("dog", "cat", "horse", "cow", "lion", "elephant", "fox"),
    "birds": ("owl", "eagle", "swan", "robin", "penguin", "duck"),
    "colours": ("red", "blue", "green", "yellow", "white", "black"),
    "metals": ("iron", "gold", "silver", "copper", "tin", "lead"),
    "instruments": ("piano", "violin", "flute", "guitar", "drum", "harp"),
    "tools": ("hammer", "saw", "knife", "axe", "drill"),
    "drinks": ("water", "tea", "coffee", "milk", "juice"),
    "sports": ("football", "tennis", "swimming", "running", "hockey"),
}
YOUNG = {
    "dog": "puppy", "cat": "kitten", "cow": "calf", "horse": "foal", "sheep": "lamb", "duck": "duckling",
    "goose": "gosling", "lion": "cub", "goat": "kid", "frog": "tadpole",
}  # fmt: skip
SYMBOLS = {
    "iron": "Fe", "gold": "Au", "silver": "Ag", "copper": "Cu", "tin": "Sn", "lead": "Pb", "oxygen": "O",
    "hydrogen": "H", "carbon": "C", "helium": "He", "sodium": "Na", "nitrogen": "N",
}  # fmt: skip
# The planets by their distance from the Sun, and by their diameter.
PLANETS = ("Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune")
PLANETS_BY_SIZE = ("Mercury", "Mars", "Venus", "Earth", "Neptune", "Uranus", "Saturn", "Jupiter")

# language: conversations of one or two turns
FOREIGN: dict[str, tuple[tuple[tuple[str, str], ...], ...]] = {
    "French": (
        (
            ("Bonjour !", "Bonjour ! Comment puis-je vous aider ?"),
            ("Quel est votre nom ?", "Je suis un assistant."),
        ),
        (("Quelle est la capitale de la France ?", "La capitale de la France est Paris."),),
        (
            ("Combien font deux et trois ?", "Deux et trois font cinq."),
            ("Et cinq et un ?", "Cinq et un font six."),
        ),
        (("Quel jour vient après lundi ?", "Après lundi vient mardi."), ("Merci !", "Je vous en prie !")),
        (("De quelle couleur est la neige ?", "La neige est blanche."),),
        (("Combien de jours a une semaine ?", "Une semaine a sept jours."),),
        (("Que boit un chat ?", "Un chat boit de l'eau."),),
    ),
    "German": (
        (("Guten Tag!", "Guten Tag! Wie kann ich helfen?"), ("Wer bist du?", "Ich bin ein Assistent.")),
        (("Was ist die Hauptstadt von Österreich?", "Die Hauptstadt von Österreich ist Wien."),),
        (("Wie viel ist drei und vier?", "Drei und vier ist sieben."), ("Danke!", "Gern geschehen!")),
        (("Welcher Tag kommt nach Freitag?", "Nach Freitag kommt Samstag."),),
        (("Welche Farbe hat Gras?", "Gras ist grün."), ("Und der Schnee?", "Schnee ist weiß.")),
        (("Wie viele Monate hat ein Jahr?", "Ein Jahr hat zwölf Monate."),),
        (("Was frisst eine Kuh?", "Eine Kuh frisst Gras."),),
    ),
    "Chinese": (
        (("你好！", "你好！我能帮你什么？"), ("你是谁？", "我是一个助手。")),
        (("中国的首都是哪里？", "中国的首都是北京。"),),
        (("二加三等于几？", "二加三等于五。"), ("五加一呢？", "五加一等于六。")),
        (("一年有几个月？", "一年有十二个月。"), ("谢谢！", "不客气！")),
        (("雪是什么颜色？", "雪是白色的。"),),
        (("一周有几天？", "一周有七天。"),),
        (("猫喝什么？", "猫喝水。"),),
    ),
}
