"""Things that are true, shared by the agent scenarios and the general chat."""

from __future__ import annotations

# country: (capital, continent, currency, an official language)
COUNTRIES: dict[str, tuple[str, str, str, str]] = {
    "Norway": ("Oslo", "Europe", "krone", "Norwegian"),
    "Sweden": ("Stockholm", "Europe", "krona", "Swedish"),
    "Denmark": ("Copenhagen", "Europe", "krone", "Danish"),
    "Iceland": ("Reykjavik", "Europe", "krona", "Icelandic"),
    "France": ("Paris", "Europe", "euro", "French"),
    "Spain": ("Madrid", "Europe", "euro", "Spanish"),
    "Italy": ("Rome", "Europe", "euro", "Italian"),
    "Germany": ("Berlin", "Europe", "euro", "German"),
    "Austria": ("Vienna", "Europe", "euro", "German"),
    "Portugal": ("Lisbon", "Europe", "euro", "Portuguese"),
    "Poland": ("Warsaw", "Europe", "zloty", "Polish"),
    "Greece": ("Athens", "Europe", "euro", "Greek"),
    "Japan": ("Tokyo", "Asia", "yen", "Japanese"),
    "China": ("Beijing", "Asia", "yuan", "Chinese"),
    "India": ("New Delhi", "Asia", "rupee", "Hindi"),
    "Thailand": ("Bangkok", "Asia", "baht", "Thai"),
    "Vietnam": ("Hanoi", "Asia", "dong", "Vietnamese"),
    "Egypt": ("Cairo", "Africa", "pound", "Arabic"),
    "Kenya": ("Nairobi", "Africa", "shilling", "Swahili"),
    "Morocco": ("Rabat", "Africa", "dirham", "Arabic"),
    "Peru": ("Lima", "South America", "sol", "Spanish"),
    "Chile": ("Santiago", "South America", "peso", "Spanish"),
    "Brazil": ("Brasilia", "South America", "real", "Portuguese"),
    "Canada": ("Ottawa", "North America", "dollar", "English"),
    "Mexico": ("Mexico City", "North America", "peso", "Spanish"),
    "Cuba": ("Havana", "North America", "peso", "Spanish"),
}

LANGUAGES = ("French", "German", "Spanish", "Chinese")
# English: French, German, Spanish, Chinese
DICTIONARY: dict[str, tuple[str, str, str, str]] = {
    "water": ("eau", "Wasser", "agua", "水"),
    "bread": ("pain", "Brot", "pan", "面包"),
    "house": ("maison", "Haus", "casa", "房子"),
    "book": ("livre", "Buch", "libro", "书"),
    "tree": ("arbre", "Baum", "árbol", "树"),
    "dog": ("chien", "Hund", "perro", "狗"),
    "cat": ("chat", "Katze", "gato", "猫"),
    "sun": ("soleil", "Sonne", "sol", "太阳"),
    "moon": ("lune", "Mond", "luna", "月亮"),
    "tea": ("thé", "Tee", "té", "茶"),
    "milk": ("lait", "Milch", "leche", "牛奶"),
    "apple": ("pomme", "Apfel", "manzana", "苹果"),
    "fish": ("poisson", "Fisch", "pescado", "鱼"),
    "friend": ("ami", "Freund", "amigo", "朋友"),
    "day": ("jour", "Tag", "día", "天"),
    "night": ("nuit", "Nacht", "noche", "夜"),
    "snow": ("neige", "Schnee", "nieve", "雪"),
    "rain": ("pluie", "Regen", "lluvia", "雨"),
}

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ines", "Jonas", "Lena", "Marco")

# unit: (what it measures, and its size in metres, grams or seconds as numerator and denominator)
UNITS: dict[str, tuple[str, int, int]] = {
    "metres": ("length", 1, 1),
    "kilometres": ("length", 1000, 1),
    "centimetres": ("length", 1, 100),
    "miles": ("length", 1609344, 1000),
    "feet": ("length", 3048, 10000),
    "inches": ("length", 254, 10000),
    "grams": ("mass", 1, 1),
    "kilograms": ("mass", 1000, 1),
    "pounds": ("mass", 45359237, 100000),
    "minutes": ("time", 60, 1),
    "hours": ("time", 3600, 1),
    "days": ("time", 86400, 1),
}

# writer: (book, year of first publication)
BOOKS: dict[str, tuple[tuple[str, int], ...]] = {
    "Jane Austen": (("Sense and Sensibility", 1811), ("Mansfield Park", 1814), ("Pride and Prejudice", 1813)),
    "Charles Dickens": (("Oliver Twist", 1838), ("Hard Times", 1854), ("Bleak House", 1853)),
    "Jules Verne": (("The Mysterious Island", 1875), ("Michael Strogoff", 1876)),
    "Mary Shelley": (("Frankenstein", 1818), ("The Last Man", 1826)),
    "Bram Stoker": (("Dracula", 1897), ("The Lady of the Shroud", 1909)),
    "H. G. Wells": (("The Time Machine", 1895), ("The Invisible Man", 1897)),
    "Mark Twain": (("The Adventures of Tom Sawyer", 1876), ("The Prince and the Pauper", 1881)),
    "George Eliot": (("Silas Marner", 1861), ("Adam Bede", 1859)),
}
