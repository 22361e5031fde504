"""Select the sprites and pack them into one picture: `python demo/atlas.py [FOLDER]`.

FOLDER is the unpacked npm package `@lobehub/fluent-emoji-3d` 1.1.0 (Fluent Emoji by Microsoft, MIT). Without it the npm
client downloads the package. Only whoever changes the selection needs to run this: its two outputs, `sprites.webp` and
`sprites.json`, are part of the repository.

Each sprite is cropped to what it shows and scaled so that its longer side has 128 pixels. It stands in the middle of
its tile's lower edge.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
TILE, COLUMNS = 128, 12

HEARTS = {
    "red": "2764-fe0f",
    "orange": "1f9e1",
    "yellow": "1f49b",
    "green": "1f49a",
    "blue": "1f499",
    "purple": "1f49c",
    "brown": "1f90e",
    "black": "1f5a4",
    "grey": "1fa76",
    "white": "1f90d",
    "pink": "1fa77",
}
# By what the pictures show: the package has the files of 1f3fc and 1f3fd the other way round.
TONES = {"light": "1f3fb", "tan": "1f3fd", "brown": "1f3fc", "dark": "1f3ff"}
HANDS = {"thumbs up": "1f44d", "raised fist": "270a", "victory hand": "270c"}
PEOPLE = {"baby": "1f476", "woman": "1f469"}
ANIMAL_FACES = {
    "cat": "1f431",
    "dog": "1f436",
    "hamster": "1f439",
    "rabbit": "1f430",
    "fox": "1f98a",
    "bear": "1f43b",
    "panda": "1f43c",
    "koala": "1f428",
    "tiger": "1f42f",
    "lion": "1f981",
    "cow": "1f42e",
    "pig": "1f437",
    "frog": "1f438",
    "monkey": "1f435",
    "wolf": "1f43a",
    "raccoon": "1f99d",
}
FACES = {
    "smiling face": "1f642",
    "laughing face": "1f604",
    "angry face": "1f621",
    "crying face": "1f62d",
    "cool face": "1f60e",
}
ANIMALS = {
    "penguin": "1f427",
    "owl": "1f989",
    "chick": "1f425",
    "duck": "1f986",
    "turtle": "1f422",
    "octopus": "1f419",
    "crab": "1f980",
    "fish": "1f420",
    "elephant": "1f418",
    "dinosaur": "1f996",
    "unicorn": "1f984",
    "butterfly": "1f98b",
}
FOOD = {
    "apple": "1f34e",
    "banana": "1f34c",
    "strawberry": "1f353",
    "pineapple": "1f34d",
    "watermelon": "1f349",
    "lemon": "1f34b",
    "avocado": "1f951",
    "broccoli": "1f966",
    "burger": "1f354",
    "pizza": "1f355",
    "doughnut": "1f369",
    "cupcake": "1f9c1",
}
THINGS = {
    "car": "1f697",
    "bus": "1f68c",
    "rocket": "1f680",
    "sailboat": "26f5",
    "house": "1f3e0",
    "tree": "1f333",
    "cactus": "1f335",
    "sunflower": "1f33b",
    "teapot": "1fad6",
    "guitar": "1f3b8",
    "present": "1f381",
    "football": "26bd",
    "camera": "1f4f7",
    "robot": "1f916",
    "snowman": "26c4",
    "pumpkin": "1f383",
}
HATS = {"crown": "1f451", "hat": "1f3a9"}
PROPS = {
    "mushroom": "1f344",
    "tulip": "1f337",
    "seedling": "1f331",
    "star": "2b50",
    "shell": "1f41a",
    "rock": "1faa8",
    "yarn": "1f9f6",
    "bell": "1f514",
    "acorn": "1f330",
    "book": "1f4d5",
}
RARE = ("raccoon", "avocado", "rocket", "penguin", "teapot", "crying face")


def selection() -> list[dict[str, str]]:
    """Every sprite: its name, code points and family, in atlas order."""
    chosen = [{"name": f"{colour} heart", "code": code, "family": "heart"} for colour, code in HEARTS.items()]
    for family, of in (("hand", HANDS), ("person", PEOPLE)):
        for name, code in of.items():
            chosen += [
                {"name": f"{name} {tone} skin", "code": f"{code}-{tone_code}", "family": family}
                for tone, tone_code in TONES.items()
            ]
    families = {
        "animal face": ANIMAL_FACES,
        "face": FACES,
        "animal": ANIMALS,
        "food": FOOD,
        "thing": THINGS,
        "hat": HATS,
        "prop": PROPS,
    }
    for family, of in families.items():
        chosen += [{"name": name, "code": code, "family": family} for name, code in of.items()]
    return chosen


def download(folder: Path) -> Path:
    """The unpacked package, fetched by the npm client."""
    subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=folder, check=True)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package"


def main(folder: Path) -> None:
    chosen = selection()
    atlas = Image.new("RGBA", (TILE * COLUMNS, TILE * -(-len(chosen) // COLUMNS)))
    for i, sprite in enumerate(chosen):
        picture = Image.open(folder / "assets" / f"{sprite['code']}.webp").convert("RGBA")
        shown = picture.getchannel("A").point(lambda a: 255 if a > 24 else 0).getbbox()
        assert shown, sprite
        picture = picture.crop(shown)
        scale = TILE / max(picture.size)
        # Pillow resizes with premultiplied alpha, so colours of clear pixels do not bleed in.
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        corner = ((TILE - size[0]) // 2, TILE - size[1])
        atlas.paste(picture, (i % COLUMNS * TILE + corner[0], i // COLUMNS * TILE + corner[1]))
    atlas.save(HERE / "sprites.webp", quality=90, alpha_quality=100, method=6)
    index = {"source": f"Fluent Emoji (Microsoft, MIT), {PACKAGE}", "rare": list(RARE), "sprites": chosen}
    (HERE / "sprites.json").write_text(json.dumps(index, indent=1) + "\n")
    print(f"{len(chosen)} sprites, {(HERE / 'sprites.webp').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(download(Path(temporary)))
