"""Common-knowledge tables and word lists that the examples are made from.

Everything here is plain fact or plain vocabulary, written down by hand for this project.
"""

from __future__ import annotations

# fmt: off

# country: (capital, continent)
COUNTRIES: dict[str, tuple[str, str]] = {
    "France": ("Paris", "Europe"), "Germany": ("Berlin", "Europe"), "Italy": ("Rome", "Europe"),
    "Spain": ("Madrid", "Europe"), "Portugal": ("Lisbon", "Europe"), "Greece": ("Athens", "Europe"),
    "Austria": ("Vienna", "Europe"), "Belgium": ("Brussels", "Europe"), "Poland": ("Warsaw", "Europe"),
    "Hungary": ("Budapest", "Europe"), "Romania": ("Bucharest", "Europe"), "Bulgaria": ("Sofia", "Europe"),
    "Sweden": ("Stockholm", "Europe"), "Norway": ("Oslo", "Europe"), "Denmark": ("Copenhagen", "Europe"),
    "Finland": ("Helsinki", "Europe"), "Iceland": ("Reykjavik", "Europe"), "Ireland": ("Dublin", "Europe"),
    "the United Kingdom": ("London", "Europe"), "Ukraine": ("Kyiv", "Europe"), "Croatia": ("Zagreb", "Europe"),
    "Serbia": ("Belgrade", "Europe"), "Slovenia": ("Ljubljana", "Europe"), "Slovakia": ("Bratislava", "Europe"),
    "Estonia": ("Tallinn", "Europe"), "Latvia": ("Riga", "Europe"), "Lithuania": ("Vilnius", "Europe"),
    "Albania": ("Tirana", "Europe"), "Malta": ("Valletta", "Europe"), "Switzerland": ("Bern", "Europe"),
    "the Netherlands": ("Amsterdam", "Europe"), "Japan": ("Tokyo", "Asia"), "China": ("Beijing", "Asia"),
    "India": ("New Delhi", "Asia"), "South Korea": ("Seoul", "Asia"), "Thailand": ("Bangkok", "Asia"),
    "Vietnam": ("Hanoi", "Asia"), "Indonesia": ("Jakarta", "Asia"), "the Philippines": ("Manila", "Asia"),
    "Malaysia": ("Kuala Lumpur", "Asia"), "Mongolia": ("Ulaanbaatar", "Asia"), "Nepal": ("Kathmandu", "Asia"),
    "Pakistan": ("Islamabad", "Asia"), "Bangladesh": ("Dhaka", "Asia"), "Iran": ("Tehran", "Asia"),
    "Iraq": ("Baghdad", "Asia"), "Jordan": ("Amman", "Asia"), "Lebanon": ("Beirut", "Asia"),
    "Saudi Arabia": ("Riyadh", "Asia"), "Turkey": ("Ankara", "Asia"), "Oman": ("Muscat", "Asia"),
    "Qatar": ("Doha", "Asia"), "Laos": ("Vientiane", "Asia"), "Bhutan": ("Thimphu", "Asia"),
    "Egypt": ("Cairo", "Africa"), "Morocco": ("Rabat", "Africa"), "Algeria": ("Algiers", "Africa"),
    "Tunisia": ("Tunis", "Africa"), "Kenya": ("Nairobi", "Africa"), "Nigeria": ("Abuja", "Africa"),
    "Ghana": ("Accra", "Africa"), "Senegal": ("Dakar", "Africa"), "Ethiopia": ("Addis Ababa", "Africa"),
    "Uganda": ("Kampala", "Africa"), "Rwanda": ("Kigali", "Africa"), "Zambia": ("Lusaka", "Africa"),
    "Zimbabwe": ("Harare", "Africa"), "Angola": ("Luanda", "Africa"), "Namibia": ("Windhoek", "Africa"),
    "Mozambique": ("Maputo", "Africa"), "Madagascar": ("Antananarivo", "Africa"), "Mali": ("Bamako", "Africa"),
    "Canada": ("Ottawa", "North America"), "the United States": ("Washington", "North America"),
    "Mexico": ("Mexico City", "North America"), "Cuba": ("Havana", "North America"),
    "Jamaica": ("Kingston", "North America"), "Costa Rica": ("San Jose", "North America"),
    "Guatemala": ("Guatemala City", "North America"), "Panama": ("Panama City", "North America"),
    "Brazil": ("Brasilia", "South America"), "Argentina": ("Buenos Aires", "South America"),
    "Chile": ("Santiago", "South America"), "Peru": ("Lima", "South America"),
    "Colombia": ("Bogota", "South America"), "Ecuador": ("Quito", "South America"),
    "Uruguay": ("Montevideo", "South America"), "Venezuela": ("Caracas", "South America"),
    "Bolivia": ("Sucre", "South America"), "Paraguay": ("Asuncion", "South America"),
    "Australia": ("Canberra", "Oceania"), "New Zealand": ("Wellington", "Oceania"), "Fiji": ("Suva", "Oceania"),
}

# element: (symbol, atomic number)
ELEMENTS: dict[str, tuple[str, int]] = {
    "hydrogen": ("H", 1), "helium": ("He", 2), "lithium": ("Li", 3), "beryllium": ("Be", 4), "boron": ("B", 5),
    "carbon": ("C", 6), "nitrogen": ("N", 7), "oxygen": ("O", 8), "fluorine": ("F", 9), "neon": ("Ne", 10),
    "sodium": ("Na", 11), "magnesium": ("Mg", 12), "aluminium": ("Al", 13), "silicon": ("Si", 14),
    "phosphorus": ("P", 15), "sulfur": ("S", 16), "chlorine": ("Cl", 17), "argon": ("Ar", 18),
    "potassium": ("K", 19), "calcium": ("Ca", 20), "titanium": ("Ti", 22), "chromium": ("Cr", 24),
    "manganese": ("Mn", 25), "iron": ("Fe", 26), "cobalt": ("Co", 27), "nickel": ("Ni", 28), "copper": ("Cu", 29),
    "zinc": ("Zn", 30), "arsenic": ("As", 33), "bromine": ("Br", 35), "krypton": ("Kr", 36), "silver": ("Ag", 47),
    "tin": ("Sn", 50), "iodine": ("I", 53), "xenon": ("Xe", 54), "barium": ("Ba", 56), "tungsten": ("W", 74),
    "platinum": ("Pt", 78), "gold": ("Au", 79), "mercury": ("Hg", 80), "lead": ("Pb", 82), "radon": ("Rn", 86),
    "radium": ("Ra", 88), "uranium": ("U", 92),
}

PLANETS = ["Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
          "November", "December"]
MONTH_DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
            "eleventh", "twelfth"]

# animal: (legs, sound verb or "", young)
ANIMALS: dict[str, tuple[int, str, str]] = {
    "dog": (4, "woof", "puppy"), "cat": (4, "meow", "kitten"), "cow": (4, "moo", "calf"),
    "horse": (4, "neigh", "foal"), "sheep": (4, "baa", "lamb"), "pig": (4, "oink", "piglet"),
    "duck": (2, "quack", "duckling"), "hen": (2, "cluck", "chick"), "frog": (4, "ribbit", "tadpole"),
    "lion": (4, "roar", "cub"), "bear": (4, "growl", "cub"), "wolf": (4, "howl", "pup"), "owl": (2, "hoot", "owlet"),
    "goat": (4, "bleat", "kid"), "mouse": (4, "squeak", "pup"), "snake": (0, "hiss", "snakelet"),
    "bee": (6, "buzz", "larva"), "crow": (2, "caw", "chick"), "donkey": (4, "hee-haw", "foal"),
    "goose": (2, "honk", "gosling"), "fox": (4, "", "cub"), "rabbit": (4, "", "kit"), "deer": (4, "", "fawn"),
    "swan": (2, "", "cygnet"), "eagle": (2, "", "eaglet"), "kangaroo": (2, "", "joey"), "elephant": (4, "", "calf"),
    "whale": (0, "", "calf"), "spider": (8, "", "spiderling"), "ant": (6, "", "larva"),
    "butterfly": (6, "", "caterpillar"), "fish": (0, "", "fry"), "tiger": (4, "", "cub"), "turtle": (4, "", "hatchling"),
}

COLORS_OF: dict[str, str] = {
    "grass": "green", "snow": "white", "coal": "black", "blood": "red", "a banana": "yellow", "a lemon": "yellow",
    "a tomato": "red", "a carrot": "orange", "chocolate": "brown", "milk": "white", "a flamingo": "pink",
    "the sky": "blue", "the sun": "yellow", "a strawberry": "red", "a cucumber": "green", "an elephant": "grey",
    "a plum": "purple", "a crow": "black", "broccoli": "green", "a polar bear": "white", "a frog": "green",
    "a pumpkin": "orange", "rust": "brown", "charcoal": "black",
}

OPPOSITES: list[tuple[str, str]] = [
    ("hot", "cold"), ("big", "small"), ("tall", "short"), ("fast", "slow"), ("up", "down"), ("left", "right"),
    ("old", "young"), ("happy", "sad"), ("light", "dark"), ("day", "night"), ("open", "closed"), ("full", "empty"),
    ("wet", "dry"), ("hard", "soft"), ("loud", "quiet"), ("rich", "poor"), ("strong", "weak"), ("near", "far"),
    ("early", "late"), ("good", "bad"), ("clean", "dirty"), ("thick", "thin"), ("wide", "narrow"), ("deep", "shallow"),
    ("cheap", "expensive"), ("true", "false"), ("love", "hate"), ("begin", "end"), ("win", "lose"), ("push", "pull"),
    ("buy", "sell"), ("give", "take"), ("above", "below"), ("inside", "outside"), ("always", "never"),
    ("first", "last"), ("north", "south"), ("east", "west"), ("sharp", "blunt"),
    ("sweet", "sour"), ("safe", "dangerous"), ("brave", "cowardly"), ("wise", "foolish"), ("smooth", "rough"),
]

# general facts: (question, full answer, bare answer)
GENERAL: list[tuple[str, str, str]] = [
    ("How many days are in a week?", "There are 7 days in a week.", "7"),
    ("How many months are in a year?", "There are 12 months in a year.", "12"),
    ("How many hours are in a day?", "There are 24 hours in a day.", "24"),
    ("How many minutes are in an hour?", "There are 60 minutes in an hour.", "60"),
    ("How many seconds are in a minute?", "There are 60 seconds in a minute.", "60"),
    ("How many days are in a year?", "There are 365 days in a year.", "365"),
    ("How many weeks are in a year?", "There are 52 weeks in a year.", "52"),
    ("How many planets are in the solar system?", "There are 8 planets in the solar system.", "8"),
    ("How many letters are in the English alphabet?", "There are 26 letters in the English alphabet.", "26"),
    ("How many continents are there?", "There are 7 continents.", "7"),
    ("How many sides does a triangle have?", "A triangle has 3 sides.", "3"),
    ("How many sides does a square have?", "A square has 4 sides.", "4"),
    ("How many sides does a pentagon have?", "A pentagon has 5 sides.", "5"),
    ("How many sides does a hexagon have?", "A hexagon has 6 sides.", "6"),
    ("How many sides does an octagon have?", "An octagon has 8 sides.", "8"),
    ("How many centimetres are in a metre?", "There are 100 centimetres in a metre.", "100"),
    ("How many metres are in a kilometre?", "There are 1000 metres in a kilometre.", "1000"),
    ("How many grams are in a kilogram?", "There are 1000 grams in a kilogram.", "1000"),
    ("How many bits are in a byte?", "There are 8 bits in a byte.", "8"),
    ("How many strings does a violin have?", "A violin has 4 strings.", "4"),
    ("How many wheels does a bicycle have?", "A bicycle has 2 wheels.", "2"),
    ("How many wheels does a car have?", "A car has 4 wheels.", "4"),
    ("How many fingers are on one hand?", "There are 5 fingers on one hand.", "5"),
    ("How many legs does a spider have?", "A spider has 8 legs.", "8"),
    ("What is the largest planet?", "The largest planet is Jupiter.", "Jupiter"),
    ("What is the smallest planet?", "The smallest planet is Mercury.", "Mercury"),
    ("Which planet is called the red planet?", "Mars is called the red planet.", "Mars"),
    ("Which planet has the big rings?", "Saturn has the big rings.", "Saturn"),
    ("What star is closest to the Earth?", "The star closest to the Earth is the Sun.", "the Sun"),
    ("What goes around the Earth?", "The Moon goes around the Earth.", "the Moon"),
    ("What is the largest ocean?", "The largest ocean is the Pacific Ocean.", "the Pacific Ocean"),
    ("What is the highest mountain?", "The highest mountain is Mount Everest.", "Mount Everest"),
    ("What is the longest river?", "The longest river is the Nile.", "the Nile"),
    ("What is the largest animal?", "The largest animal is the blue whale.", "the blue whale"),
    ("What is the tallest animal?", "The tallest animal is the giraffe.", "the giraffe"),
    ("What is the fastest land animal?", "The fastest land animal is the cheetah.", "the cheetah"),
    ("What is the chemical formula of water?", "The chemical formula of water is H2O.", "H2O"),
    ("What is frozen water called?", "Frozen water is called ice.", "ice"),
    ("At what temperature does water boil?", "Water boils at 100 degrees Celsius.", "100 degrees Celsius"),
    ("At what temperature does water freeze?", "Water freezes at 0 degrees Celsius.", "0 degrees Celsius"),
    ("What do bees make?", "Bees make honey.", "honey"),
    ("What do cows give us to drink?", "Cows give us milk.", "milk"),
    ("What do plants need to grow?", "Plants need water, light and air.", "water, light and air"),
    ("Who wrote Romeo and Juliet?", "William Shakespeare wrote Romeo and Juliet.", "William Shakespeare"),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci painted the Mona Lisa.", "Leonardo da Vinci"),
    ("What language do people speak in Brazil?", "People in Brazil speak Portuguese.", "Portuguese"),
    ("What language do people speak in Mexico?", "People in Mexico speak Spanish.", "Spanish"),
    ("What is the currency of Japan?", "The currency of Japan is the yen.", "the yen"),
    ("What is the currency of the United Kingdom?", "The currency of the United Kingdom is the pound.", "the pound"),
    ("What colour do you get from blue and yellow?", "Blue and yellow make green.", "green"),
    ("What colour do you get from red and yellow?", "Red and yellow make orange.", "orange"),
    ("What colour do you get from red and blue?", "Red and blue make purple.", "purple"),
    ("What is the first letter of the alphabet?", "The first letter of the alphabet is A.", "A"),
    ("What is the last letter of the alphabet?", "The last letter of the alphabet is Z.", "Z"),
    ("Which season comes after winter?", "Spring comes after winter.", "Spring"),
    ("Which season comes after spring?", "Summer comes after spring.", "Summer"),
    ("Which season comes after summer?", "Autumn comes after summer.", "Autumn"),
    ("Which season comes after autumn?", "Winter comes after autumn.", "Winter"),
    ("Where does the sun rise?", "The sun rises in the east.", "in the east"),
    ("Where does the sun set?", "The sun sets in the west.", "in the west"),
]

ROMAN = [(1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"),
         (9, "IX"), (5, "V"), (4, "IV"), (1, "I")]
ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
        "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]

NAMES = (
    "Anna Ben Clara David Emma Felix Grace Hugo Ida Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tina Victor Wendy Yara "
    "Zoe Adam Bella Carl Diana Eric Fiona George Helen Ivan Julia Kevin Laura Mark Nina Oscar Petra Ralph Sara Tom Una "
    "Vera Walter Ada Bruno Cora Dan Ella Frank Greta Henry Iris James Karl Lily Max Nora Otto Pia Robert Sofia Theo "
    "Ursula Vince Will Amir Chen Dara Elif Farid Gina Hana Imran Jun Kofi Lena Marco Nadia Omar Priya Ravi Salma Tariq "
    "Uma Wei Yuki Aisha Boris Carmen Diego Elena Fatima Goran Ingrid Jorge Kim Luis Maria Nils Pablo Rita Sven Tara"
).split()
CITIES = [capital for capital, _ in COUNTRIES.values()] + (
    "Sydney Toronto Chicago Boston Munich Hamburg Milan Naples Seville Porto Lyon Geneva Mumbai Osaka Kyoto Shanghai "
    "Lagos Glasgow Bristol Leeds Dallas Denver Seattle Miami Phoenix"
).split()
JOBS = ("teacher doctor nurse baker farmer pilot driver singer painter writer cook lawyer dentist plumber carpenter "
        "gardener sailor engineer scientist librarian musician actor waiter builder firefighter tailor judge").split()
COLORS = "red blue green yellow orange purple pink brown black white grey silver gold turquoise violet".split()
PETS = "dog cat rabbit hamster parrot goldfish turtle pony mouse canary lizard duck".split()
FOODS = ("apples bread cheese pizza soup rice pasta salad cake bananas honey fish potatoes carrots tomatoes eggs chocolate "
         "pancakes sandwiches noodles mangoes").split()
HOBBIES = ("swimming reading chess painting football cooking dancing cycling fishing running singing hiking tennis "
           "gardening sailing knitting").split()
ADJECTIVES = (
    "amber brave calm clever cold crystal dark eager early fancy fast gentle giant golden green happy heavy hidden "
    "honest humble icy jolly kind large lazy light little lively lonely loud lucky magic mighty modern noble odd old "
    "pale plain proud quick quiet rapid rare red royal rusty secret shiny silent silver simple sleepy slow small smart "
    "soft solid spicy steady strong sunny sweet swift tall tiny tired warm wild wise wooden young"
).split()
NOUNS = (
    "anchor apple arrow badge ball banana basket beach bell bird boat book bottle box bread bridge brush bucket button "
    "cake camera candle car carpet castle chair cheese cherry circle clock cloud coat coin cup curtain desk diamond "
    "door dragon dream drum eagle engine falcon farm feather fence field fire flag flower forest fork fountain garden "
    "gate glass glove grape guitar hammer harbor hat helmet hill honey hotel house island jacket jar jewel key king "
    "kite knife ladder lake lamp leaf lemon letter lion lock magnet map marble market melon mirror monkey moon mountain "
    "needle nest net oak ocean onion orange oven owl paint palace panda paper pear pearl pencil piano pillow pilot "
    "pirate planet plate pocket potato queen rabbit radio rain ribbon ring river robot rocket roof rope rose sail "
    "salt sand school ship shirt shoe silk singer sky snow soap sock spoon star stone storm street sugar table tail "
    "tea temple tent tiger tower train tree truck tunnel turtle umbrella valley vase village violin wagon wall watch "
    "water whale wheel whistle wind window wolf wood yard zebra"
).split()
VERBS = ("walk run jump swim sing dance read write cook eat drink sleep play draw build climb fly drive ride laugh "
         "dream watch listen learn teach help find open close carry throw catch wash").split()
EMOJI = list("😀😎🚀🌍🍎🎉🐱🐶🌟🔥💡🎵🌈🍕⚽🎁🌻🐢🦊🍀")
FOREIGN = ("café naïve über señor façade crème jalapeño smörgåsbord Zürich São Łódź Ångström déjà année "
           "привет мир спасибо こんにちは 世界 ありがとう 你好 谢谢 朋友 안녕 하늘 שלום مرحبا γειά κόσμος नमस्ते").split()
