"""The fifteen sentence patterns of indirect object identification.

Source: Wang et al. 2022, arXiv 2211.00593; patterns of `redwoodresearch/Easy-Transformer` (MIT licence). FIRST and
SECOND are the two names of the first clause: the subject comes first in BABA prompts, second in ABBA prompts.
"""

PATTERNS = (
    "Then, {FIRST} and {SECOND} went to the {PLACE}. {S2} gave a {OBJECT} to",
    "Then, {FIRST} and {SECOND} had a lot of fun at the {PLACE}. {S2} gave a {OBJECT} to",
    "Then, {FIRST} and {SECOND} were working at the {PLACE}. {S2} decided to give a {OBJECT} to",
    "Then, {FIRST} and {SECOND} were thinking about going to the {PLACE}. {S2} wanted to give a {OBJECT} to",
    "Then, {FIRST} and {SECOND} had a long argument, and afterwards {S2} said to",
    "After {FIRST} and {SECOND} went to the {PLACE}, {S2} gave a {OBJECT} to",
    "When {FIRST} and {SECOND} got a {OBJECT} at the {PLACE}, {S2} decided to give it to",
    "When {FIRST} and {SECOND} got a {OBJECT} at the {PLACE}, {S2} decided to give the {OBJECT} to",
    "While {FIRST} and {SECOND} were working at the {PLACE}, {S2} gave a {OBJECT} to",
    "While {FIRST} and {SECOND} were commuting to the {PLACE}, {S2} gave a {OBJECT} to",
    "After the lunch, {FIRST} and {SECOND} went to the {PLACE}. {S2} gave a {OBJECT} to",
    "Afterwards, {FIRST} and {SECOND} went to the {PLACE}. {S2} gave a {OBJECT} to",
    "Then, {FIRST} and {SECOND} had a long argument. Afterwards {S2} said to",
    "The {PLACE} {FIRST} and {SECOND} went to had a {OBJECT}. {S2} gave it to",
    "Friends {FIRST} and {SECOND} found a {OBJECT} at the {PLACE}. {S2} gave it to",
)

ORDERS = {"BABA": ("S1", "IO"), "ABBA": ("IO", "S1")}
TEMPLATES = tuple(
    pattern.replace("FIRST", first).replace("SECOND", second)
    for first, second in ORDERS.values()
    for pattern in PATTERNS
)
TEMPLATE_NAMES = tuple(f"{order}/{index}" for order in ORDERS for index in range(len(PATTERNS)))
