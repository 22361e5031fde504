"""Select the emoji and pack them into one picture: `python demo/atlas.py FOLDER`.

FOLDER is the unpacked npm package `emoji-datasource-google` (version 16.0.0: Noto Emoji, Apache-2.0); the English
names come from the PyPI package `emoji`. Only whoever changes the selection needs to run this: its two outputs,
`emoji.png` and `emoji.json`, are part of the repository.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
COLUMNS = 20
HEARTS = ["red", "orange", "yellow", "green", "light_blue", "blue", "purple", "brown", "black", "grey", "white", "pink"]
GESTURES = ["thumbs_up", "thumbs_down", "waving_hand", "raised_fist", "victory_hand", "OK_hand"]
TONES = ["light", "medium-light", "medium", "medium-dark", "dark"]
QUOTA = {
    "Smileys & Emotion": 64,
    "Animals & Nature": 90,
    "Food & Drink": 75,
    "Activities": 20,
    "Objects": 26,
    "Travel & Places": 8,
}
RARE = ("fox", "avocado", "rocket", "penguin", "crown", "clown face")
TOTAL = 320


def main(folder: Path) -> None:
    import emoji

    entries = {}  # name -> (category, RGBA picture)
    english = {c: v["en"].strip(":") for c, v in emoji.EMOJI_DATA.items()}
    for entry in json.loads((folder / "emoji.json").read_text()):
        for e in [entry, *entry.get("skin_variations", {}).values()]:
            name = english.get("".join(chr(int(code, 16)) for code in e["unified"].split("-")))
            if name and e["has_img_google"]:
                path = folder / "img" / "google" / "64" / e["image"]
                rgba = np.asarray(Image.open(path).convert("RGBA"), dtype=np.float32) / 255
                entries[name] = (entry["category"], rgba)

    chosen = [f"{colour}_heart" for colour in HEARTS]
    chosen += [f"{gesture}_{tone}_skin_tone" for gesture in GESTURES for tone in TONES]
    chosen += [name for name in (r.replace(" ", "_") for r in RARE)]
    flat = {n: (a[..., :3] * a[..., 3:] + 0.5 * (1 - a[..., 3:])).ravel() for n, (_, a) in entries.items()}
    count = dict.fromkeys(QUOTA, 0)
    for name, (category, rgba) in entries.items():
        fits = len(chosen) < TOTAL and count.get(category, 1) < QUOTA.get(category, 0)
        plain = "heart" not in name and "moon" not in name and len(name.split("_")) <= 4 and name not in chosen
        shows_background = (rgba[..., 3] < 0.5).mean() > 0.2
        if fits and plain and shows_background:
            distance = min(np.sqrt(np.mean((flat[name] - flat[other]) ** 2)) for other in chosen)
            if distance > 0.16:  # pictures nearer than this are hard to tell apart at 64 x 64
                chosen.append(name)
                count[category] += 1

    rows = -(-len(chosen) // COLUMNS)
    atlas = Image.new("RGBA", (64 * COLUMNS, 64 * rows))
    for i, name in enumerate(chosen):
        tile = Image.fromarray((entries[name][1] * 255).round().astype(np.uint8))
        atlas.paste(tile, (i % COLUMNS * 64, i // COLUMNS * 64))
    atlas.save(HERE / "emoji.png", optimize=True)
    words = [name.replace("_", " ").replace("-", " ").replace("’", "'").lower() for name in chosen]
    index = {"source": "Noto Emoji (Apache-2.0), emoji-datasource-google 16.0.0", "rare": list(RARE), "names": words}
    (HERE / "emoji.json").write_text(json.dumps(index, indent=1) + "\n")
    print(f"{len(chosen)} emoji, {count}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
