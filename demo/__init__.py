"""The demo model: a small trained text-to-image model in many-step and few-step versions, and its world of scenes.

It gives the nodes something real to work on without a download, and the benchmarks exact ground truth: the same scene
with another object or wall is a picture that can be rendered.

    scenes.py     the data: a scene's description -> its picture; captions; what is rare, what is held out
    atlas.py      made `sprites.webp` and `sprites.json` from the published Fluent pictures
    codec.py      pictures <-> latents (a lapped linear transform, exact up to the components it drops)
    text.py       captions -> conditioning
    network.py    the denoiser's architecture: arguments for the host's own UNetModel
    train.py      trains the flow and the v-prediction version; see README.md
    distill.py    trains the few-step version from the flow version
    train_lora.py trains a style for it
    measure.py    how good it is
    judge.py      which object, wall colour and hat a picture shows, by features that are not the model's own

Nothing here imports the host except `train.py`, `distill.py` and `measure.py`; `nodes/demo/` wraps the parts as host
objects.
"""
