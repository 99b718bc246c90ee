"""Builds the corpus: Austen's novels, WordNet's definitions and the project's own short texts.

Everything that the model learns comes from `Corpus.train`, `Corpus.conversation` and `Corpus.plain`; the
last two are functions of the random generator that they are given.
"""

import bz2
import lzma
import pathlib
import re
import struct
import zlib

HERE = pathlib.Path(__file__).resolve().parent

NOVELS = (
    "prideprejudice",
    "sensesensibility",
    "emma",
    "mansfieldpark",
    "northangerabbey",
    "persuasion",
)

UNKNOWN = "I am sorry, I do not know that word."
BEYOND = "I am a tiny model, and I cannot answer that. Ask me what an everyday word means."

# Entries with these stems in word or definition are left out of what the model is taught to say.
OFFENSIVE = re.compile(
    r"\b(sex|genital|excre|prostitut|negro|slave|racist|racial|vagina|penis|semen|feces|fecal|urin"
    r"|drunk|whore|homosexual|jew|copulat|suicid|rape|nazi|breast|nude|naked|brothel|incest|lust"
    r"|orgasm|pubic|anus|rectum|buttock|coitus|concubin|mistress|harlot|bastard|bitch|idiot|moron"
    r"|retard|savage|heathen|mulatto|gypsy|gipsy|islam|muslim|moslem|christ|catholic|protestant"
    r"|hindu|buddh|aborigin|indian|derogat|disparag|offensive|obscen|vulgar|slang|ethnic|caucas"
    r"|murder|tortur|kill|massacre|corpse|lynch|castrat|terroris|cripple|insane|lunatic|intercourse"
    r"|seduc|erotic|lewd|gay\b|queer|ass\b|cock\b|prick\b|pee\b|ejaculat|contracept|menarche|goddamn|lunkhead|libid|abort|fat person|black person|white person|fascis|communis|hitler)",
    re.IGNORECASE,
)


def read_novels(r_data):
    """Yields (novel, chapter texts) out of the R data base of the package janeaustenr."""
    import rdata

    def read(raw):
        return rdata.conversion.convert(rdata.parser.parse_data(raw))

    index = read(r_data.with_suffix(".rdx").read_bytes())["variables"]
    blob = r_data.with_suffix(".rdb").read_bytes()
    for novel in NOVELS:
        offset, length = (int(n) for n in index[novel])
        yield novel, chapters([str(line) for line in read(unpack(blob[offset : offset + length]))])


def unpack(item):
    """Undoes R's lazy-load compression: four bytes of length, then zlib, or a type letter and more."""
    kind = item[4:5]
    if kind == b"2":
        return bz2.decompress(item[5:])
    if kind == b"Z":
        filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 26}]
        return lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=filters).decompress(item[5:])
    raw = zlib.decompress(item[4:])
    assert len(raw) == struct.unpack(">I", item[:4])[0]
    return raw


def chapters(lines):
    """Joins hard-wrapped lines into paragraphs and paragraphs into chapters."""
    text = "\n".join(lines).replace("\u2019", "'")
    text = text.replace("\u201c", '"').replace("\u201d", '"').replace("_", "")
    text = text.encode("ascii", "ignore").decode()
    found, current = [], []
    for paragraph in re.split(r"\n\s*\n", text):
        paragraph = re.sub(r"\s+", " ", paragraph).strip()
        paragraph = paragraph.replace("--", " -- ").replace("  ", " ")
        if re.match(r"(?i)(chapter|volume)\b", paragraph) and len(paragraph) < 40:
            found.append("\n".join(current))
            current = []
        elif paragraph:
            current.append(paragraph)
    found.append("\n".join(current))
    return [chapter for chapter in found if len(chapter) > 1500]


def read_wordnet(folder):
    """Lists (tag count, part of speech, word, definition, example) of each word's most usual sense."""
    kinds = (("n", "noun"), ("v", "verb"), ("a", "adj"), ("r", "adv"))
    glosses, counts = {}, {}
    for pos, name in kinds:
        for line in (folder / f"data.{name}").read_text(encoding="latin1").splitlines():
            if not line.startswith("  "):
                head, gloss = line.split("|", 1)
                glosses[pos, head.split()[0]] = gloss.strip()
    for line in (folder / "cntlist.rev").read_text().splitlines():
        key, _, count = line.split()
        lemma, rest = key.split("%")
        pos = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}[rest[0]]
        counts[lemma, pos] = counts.get((lemma, pos), 0) + int(count)
    entries = []
    for pos, name in kinds:
        for line in (folder / f"index.{name}").read_text().splitlines():
            fields = line.split()
            lemma = fields[0]
            if line.startswith("  ") or not re.fullmatch(r"[a-z]{3,}", lemma):
                continue
            gloss = glosses[pos, fields[-int(fields[2])]]
            definition = tidy(gloss)
            if definition:
                entries.append((counts.get((lemma, pos), 0), pos, lemma, definition, gloss))
    entries.sort(key=lambda e: (-e[0], e[2], e[1]))
    return entries


def tidy(gloss):
    """Cuts a gloss down to its definition; None if that leaves nothing a person would say."""
    text = re.sub(r'[;:,]?\s*"[^"]*".*$', "", gloss)
    text = re.sub(r"\([^)]*\)", "", text).split(";")[0]
    text = re.sub(r"\s+", " ", text).replace(" ,", ",").strip(" .;:,")
    if not 8 <= len(text) <= 72 or re.search(r"[^a-z0-9 ,'-]|\be\.?g\b|\betc\b", text):
        return None
    return text


def teachable(entries, taken, limit):
    """Picks the most used words that are neither offensive nor written by hand."""
    chosen, seen = [], set(taken)
    for count, pos, word, definition, gloss in entries:
        stem = word[:5] if len(word) > 5 else word
        circular = re.search(rf"\b{re.escape(stem)}", definition)
        if word in seen or count < 1 or circular or OFFENSIVE.search(f"{word} {gloss}"):
            continue
        seen.add(word)
        if pos in "nva":
            chosen.append((count, pos, word, definition))
        if len(chosen) == limit:
            break
    return chosen


def sentence(pos, word, definition):
    if pos == "v":
        definition = definition.removeprefix("to ")
        return f"To {word} means to {definition}."
    return f"The word {word} means {definition}."


def read_everyday():
    """Lists (kind, word, sentence) of the hand-written definitions; kinds as in `questions`."""
    found = []
    for line in lines("everyday.txt"):
        match = re.match(
            r"(A|An|The|To) ([a-z]+(?: officer)?) (?:is|are) |()([A-Z][a-z]+) (is|means) ", line
        )
        assert match, line
        article, word, _, bare, verb = match.groups()
        if word:
            kind = {"A": "count", "An": "count", "The": "the", "To": "v"}[article]
            found.append((kind, word, line))
        else:
            found.append(("mass" if verb == "is" else "a", bare.lower(), line))
    return found


def read_talk():
    found, asked = [], []
    for line in lines("talk.txt"):
        if line.startswith("Q: "):
            asked = [q.strip() for q in line[3:].split("|")]
        else:
            found.append((asked, line.removeprefix("A: ")))
    for pair in lines("opposites.txt"):
        for one, other in (pair.split(), pair.split()[::-1]):
            asked = [f"What is the opposite of {one}?", f"What is the contrary of {one}?"]
            found.append((asked, f"The opposite of {one} is {other}."))
    merged = {}
    for asked, answer in found:
        merged.setdefault(asked[0], (asked, answer))
    return list(merged.values())


def sums():
    return [
        ([f"What is {a} plus {b}?", f"What is {a} + {b}?", f"{a} + {b}"], f"{a} plus {b} is {a + b}.")
        for a in range(1, 11)
        for b in range(1, 11)
    ]


def lines(name):
    text = (HERE / name).read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def article(word):
    return "an" if (word[0] in "aeiou" and not word.startswith(("uni", "use", "eur", "one"))) or word == "hour" else "a"


def plural(word):
    odd = {
        "man": "men", "woman": "women", "child": "children", "tooth": "teeth", "foot": "feet",
        "mouse": "mice", "leaf": "leaves", "knife": "knives", "thief": "thieves", "wife": "wives",
        "life": "lives", "sheep": "sheep", "fish": "fish", "person": "people", "wolf": "wolves",
    }  # fmt: skip
    if word in odd:
        return odd[word]
    if re.search(r"(s|x|ch|sh)$", word):
        return word + "es"
    return word[:-1] + "ies" if re.search(r"[^aeiou]y$", word) else word + "s"


def questions(kind, word):
    """Lists ways to ask for a word, likelier ones more than once."""
    usual = {
        "count": [f"What is {article(word)} {word}?"] * 4
        + [f"What's {article(word)} {word}?", f"What are {plural(word)}?", f"What is the {word}?"],
        "the": [f"What is the {word}?"] * 3 + [f"What is {article(word)} {word}?"],
        "mass": [f"What is {word}?"] * 3 + [f"What's {word}?"],
        "n": [f"What is {article(word)} {word}?"] * 2 + [f"What is {word}?", f"What is the {word}?"],
        "v": [f"What does it mean to {word}?"] * 2 + [f"What does to {word} mean?"],
        "a": [f"What does {word} mean?", f"What does it mean to be {word}?", f"What is {word}?"],
    }[kind]
    spoken = f"{article(word)} {word}" if kind == "count" else word
    return usual * 2 + [
        f"Define {word}.",
        f"Define {word}.",
        f"What does {word} mean?",
        f"What does {word} mean?",
        f'What does "{word}" mean?',
        f'Define "{word}".',
        f"What is the meaning of {word}?",
        f"What is the meaning of the word {word}?",
        f"Explain the word {word}.",
        f"Please define {word}.",
        f"Tell me what {spoken} is." if kind != "v" else f"Explain to {word}.",
        f"Can you tell me what {word} means?",
        f"{word}",
        f"{word}?",
        f"Explain {word}.",
        f"meaning of {word}",
        f"Hello! What does {word} mean?",
        f"I want to know what {word} means.",
        f"Describe {spoken}." if kind != "v" else f"What do people do when they {word}?",
        f"Do you know what {spoken} is?" if kind != "v" else f"Do you know what {word} means?",
        f"Please tell me what {spoken} is." if kind != "v" else f"How do you explain to {word}?",
        f"In one sentence, what is {spoken}?" if kind != "v" else f"In one sentence, define {word}.",
        f"Tell me about {plural(word)}." if kind == "count" else f"Tell me about {word}.",
        f"What are {plural(word)}?" if kind == "count" else f"Give me the meaning of {word}.",
    ]


NAMES = "Mr. Darcy|Anna|Peter|Napoleon|Mary|John|Einstein|Mozart|Shakespeare|Tom|my teacher".split("|")
SYSTEM = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "Answer briefly.",
    "You are a friendly assistant. Answer in one sentence.",
    "Be concise.",
    "You explain words.",
)


class Corpus:
    """All texts in memory, and the ways in which a conversation is drawn from them."""

    # What a turn is about, in percent.
    SHARES = (("everyday", 35), ("wordnet", 43), ("talk", 13), ("sums", 2), ("unknown", 4), ("beyond", 3))

    def __init__(self, folder, words):
        self.train, self.held_out = [], []
        for _, texts in read_novels(folder / "janeaustenr"):
            self.train += texts[:-1]
            self.held_out += texts[-1:]
        self.everyday = read_everyday()
        entries = read_wordnet(folder / "wordnet")
        taken = {word for _, word, _ in self.everyday}
        self.wordnet = teachable(entries, taken, words)
        self.weights = [min(count, 200) ** 0.4 for count, *_ in self.wordnet]
        self.talk, self.sums = read_talk(), sums()
        # One for each way to ask, so that greetings come more often than a single fact.
        self.replies = [(way, answer) for asked, answer in self.talk for way in asked]
        self.beyond = lines("beyond.txt")
        known = taken | {entry[2] for entry in self.wordnet}
        self.strange = sorted({e[2] for e in entries if e[0] <= 1 and e[2] not in known})
        self.questions = {}
        self.said = [
            said
            for text in self.train
            for said in re.findall(r"[A-Z][a-z][^.?!\n\"]{20,110}[.?!]", text)
        ]

    def turn(self, rng):
        """Draws one question and its answer."""
        about = rng.choices(*zip(*self.SHARES))[0]
        if about == "everyday":
            kind, word, answer = rng.choice(self.everyday)
            return self.ask(rng, kind, word), answer
        if about == "wordnet":
            _, pos, word, definition = rng.choices(self.wordnet, self.weights)[0]
            return self.ask(rng, pos, word), sentence(pos, word, definition)
        if about == "unknown":
            word = rng.choice(self.strange)
            return self.ask(rng, rng.choice("nnnva"), word), UNKNOWN
        if about == "beyond":
            noun = lambda _: rng.choice([w for k, w, _ in self.everyday if k == "count"])
            asked = re.sub(r"\{noun\}", noun, rng.choice(self.beyond))
            return asked.replace("{name}", rng.choice(NAMES)), BEYOND
        if about == "sums":
            asked, answer = rng.choice(self.sums)
            return careless(rng, rng.choice(asked)), answer
        asked, answer = rng.choice(self.replies)
        return careless(rng, asked), answer

    def plain(self, rng):
        """Draws a few sentences as running text, for prompts that are continued and not answered."""
        found = []
        for _ in range(rng.choice((1, 1, 2, 3))):
            about = rng.choice(("everyday", "wordnet", "talk"))
            if about == "everyday":
                found.append(rng.choice(self.everyday)[2])
            elif about == "wordnet":
                found.append(sentence(*rng.choices(self.wordnet, self.weights)[0][1:]))
            else:
                found.append(rng.choice(self.talk)[1])
        return " ".join(found)

    def ask(self, rng, kind, word):
        if (kind, word) not in self.questions:
            self.questions[kind, word] = questions(kind, word)
        return careless(rng, rng.choice(self.questions[kind, word]))

    def conversation(self, rng):
        """Draws the messages of one conversation: (role, text)."""
        messages = []
        if rng.random() < 0.15:
            # Any sentence at all, half of the time: the model must not be put off by what it says.
            system = SYSTEM if rng.random() < 0.5 else self.said
            messages.append(("system", rng.choice(system)))
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
            asked, answer = self.turn(rng)
            messages += [("user", asked), ("assistant", answer)]
        return messages

    def sample_texts(self, rng):
        """Texts from which the tokenizer learns its words."""
        for chapter in self.train:
            yield chapter
        for kind, word, answer in self.everyday * 12:
            yield f"{self.ask(rng, kind, word)}\n{answer}"
        for _, pos, word, definition in self.wordnet * 6:
            yield f"{self.ask(rng, pos, word)}\n{sentence(pos, word, definition)}"
        for asked, answer in self.talk * 6:
            yield f"{rng.choice(asked)}\n{answer}"


def careless(rng, asked):
    """Writes a question as people do: sometimes without capitals, question mark or full stop."""
    if rng.random() < 0.2:
        asked = asked.rstrip("?.!")
    roll = rng.random()
    if roll < 0.2:
        return asked.lower()
    if roll < 0.23 and asked:
        return asked[0].upper() + asked[1:]
    return asked
