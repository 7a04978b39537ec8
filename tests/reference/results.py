"""The eight results (nine tables) by plain Python, from sunk objects: what the SQL files must agree with.

usage: results.py FOLDER          every *.json below it, a record a line; the topic is the folder below `topics/`
       results.py --triples FILE  one {"pin": …, "geo": …, "user": …} a line

Prints {"<number>": [[…], …]} with the rows in the order in which they must come out. Uses the standard library alone
and shares nothing with the product: the rules are written down a second time, from the description of the pipeline.
"""

import collections
import datetime
import json
import pathlib
import sys

MISSING = {
    "title": {"No Title Data Available"},
    "description": {"No description available Story format", "No description available"},
    "poster_name": {"User Info Error"},
    "follower_count": {"User Info Error"},
    "tag_list": {"N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e"},
    "image_src": {"Image src error."},
}


def records_below(folder):
    tables = {"pin": [], "geo": [], "user": []}
    for path in sorted(pathlib.Path(folder).rglob("*.json")):
        parts = path.parts
        topic = parts[parts.index("topics") + 1]
        for line in path.read_text(encoding="utf-8").split("\n"):
            if line:
                tables[topic.rsplit(".", 1)[1]].append(json.loads(line))
    return tables


def records_of_triples(path):
    tables = {"pin": [], "geo": [], "user": []}
    for line in pathlib.Path(path).read_text(encoding="utf-8").split("\n"):
        if line:
            for table, row in json.loads(line).items():
                tables[table].append(row)
    return tables


def instant(text):
    return datetime.datetime.fromisoformat(text.replace("T", " "))


def distinct(rows):
    """Drops whole-row duplicates. The two spellings of an instant are one."""
    seen, kept = set(), []
    for row in rows:
        row = dict(row)
        for column in ("timestamp", "date_joined"):
            if column in row:
                row[column] = instant(row[column])
        key = tuple(sorted((name, repr(value)) for name, value in row.items()))
        if key not in seen:
            seen.add(key)
            kept.append(row)
    return kept


def followers(text):
    if text is None:
        return None
    digits, unit = text, 1
    if text.endswith("k"):
        digits, unit = text[:-1], 1000
    elif text.endswith("M"):
        digits, unit = text[:-1], 1_000_000
    if not digits or any(character not in "0123456789" for character in digits):
        return None
    count = int(digits) * unit
    return count if count < 2**31 else None


def clean_pin(row):
    row = {
        name: None if value == "" or value in MISSING.get(name, ()) else value for name, value in row.items()
    }
    return {
        "ind": int(row["index"]),
        "category": row["category"],
        "poster_name": row["poster_name"],
        "follower_count": followers(row["follower_count"]),
    }


def age_group(age):
    if age < 18:
        return None
    if age <= 24:
        return "18-24"
    if age <= 35:
        return "25-35"
    if age <= 50:
        return "36-50"
    return "+50"


def joined(left, right):
    by_ind = collections.defaultdict(list)
    for row in right:
        by_ind[row["ind"]].append(row)
    return [(a, b) for a in left for b in by_ind[a["ind"]]]


def in_order(rows):
    """By each column from the left, what is missing last."""
    return sorted(rows, key=lambda row: [(value is None, 0 if value is None else value) for value in row])


def winners(groups):
    """From {group: {candidate: score}}, every candidate that has its group's best score."""
    rows = []
    for group, scores in groups.items():
        best = max(scores.values())
        rows.extend([group, candidate, score] for candidate, score in scores.items() if score == best)
    return in_order(rows)


def popular(pairs):
    groups = collections.defaultdict(collections.Counter)
    for group, category in pairs:
        groups[group][category] += 1
    return winners(groups)


def medians(pairs):
    groups = collections.defaultdict(list)
    for group, value in pairs:
        groups[group].append(value)
    rows = []
    for group, values in groups.items():
        known = sorted(value for value in values if value is not None)
        median = known[(len(known) - 1) // 2] if known else None
        rows.append([*group, median])
    return in_order(rows)


def results(tables):
    pins = [clean_pin(row) for row in distinct(tables["pin"])]
    geos = distinct(tables["geo"])
    users = distinct(tables["user"])
    places = joined(pins, geos)
    people = joined(pins, users)

    followed = collections.defaultdict(dict)
    for pin, geo in places:
        if pin["follower_count"] is not None:
            posters = followed[geo["country"]]
            posters[pin["poster_name"]] = max(posters.get(pin["poster_name"], 0), pin["follower_count"])
    most = winners(followed)
    top = sorted(most, key=lambda row: (-row[2], row[0]))[:1]

    grouped = [(age_group(user["age"]), pin, user) for pin, user in people]
    grouped = [entry for entry in grouped if entry[0] is not None]
    years = [(user["date_joined"].year, pin) for pin, user in people if 2015 <= user["date_joined"].year <= 2020]
    identities = collections.defaultdict(set)
    for _, user in people:
        if 2015 <= user["date_joined"].year <= 2020:
            name = user["first_name"] + " " + user["last_name"]
            identities[user["date_joined"].year].add((name, user["age"], user["date_joined"]))

    return {
        "1": popular((geo["country"], pin["category"]) for pin, geo in places),
        "2": popular(
            (geo["timestamp"].year, pin["category"]) for pin, geo in places if 2018 <= geo["timestamp"].year <= 2022
        ),
        "3a": most,
        "3b": [[country, count] for country, _, count in top],
        "4": popular((group, pin["category"]) for group, pin, _ in grouped),
        "5": medians(((group,), pin["follower_count"]) for group, pin, _ in grouped),
        "6": in_order([year, len(who)] for year, who in identities.items()),
        "7": medians(((year,), pin["follower_count"]) for year, pin in years),
        "8": medians(
            ((group, user["date_joined"].year), pin["follower_count"])
            for group, pin, user in grouped
            if 2015 <= user["date_joined"].year <= 2020
        ),
    }


def main(arguments):
    if len(arguments) == 2 and arguments[0] == "--triples":
        tables = records_of_triples(arguments[1])
    elif len(arguments) == 1:
        tables = records_below(arguments[0])
    else:
        sys.exit(__doc__)
    json.dump(results(tables), sys.stdout, ensure_ascii=False)


if __name__ == "__main__":
    main(sys.argv[1:])
