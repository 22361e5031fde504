"""A wider world for the demo model: 128 x 128 scenes with exact ground truth for edits.

    scenes.py   the data: a scene's description -> its picture; captions; what is rare, what is held out
    atlas.py    made `sprites.webp` and `sprites.json` from the published Fluent pictures
    codec.py    pictures <-> latents (a lapped linear transform, exact up to the components it drops)
    network.py  the denoiser's architecture: arguments for the host's own UNetModel
    train.py    trains both versions; see README.md
    measure.py  how good it is
    judge.py    which object and wall colour a picture shows, by features that are not the model's own

Nothing here imports the host except `train.py` and `measure.py`; `nodes/demo/world.py` wraps the parts as host objects.
"""
