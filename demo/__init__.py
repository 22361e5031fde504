"""The demo model: a small trained text-to-image model on emoji, in an eps-family and a flow version.

It gives the nodes something real to work on without a download, and the benchmarks exact ground truth:
the same emoji on another background, or the same hand in another skin tone, is a picture that exists.

    pictures.py   the data: emoji, background colours, captions, what is rare and what is held out
    codec.py      pictures <-> latents (a linear patch autoencoder, exact up to the 32 components it drops)
    text.py       captions -> conditioning
    network.py    the denoiser's architecture: arguments for the host's own UNetModel
    atlas.py      made `emoji.png` and `emoji.json` from the published Noto pictures
    train.py      trains both versions; see README.md

Nothing here imports the host except `train.py` (for its UNetModel); `nodes/demo.py` wraps the parts as host objects.
"""
