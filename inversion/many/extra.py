"""What has to be installed beside the library."""

import importlib.util

from .. import InversionError

PACKAGES = ("ray", "pyarrow", "diffusers", "transformers", "PIL")


def require() -> None:
    """Raise an InversionError that names what of the extra is missing, if anything is."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InversionError(
            f"inversion.many needs packages that this Python does not have: {', '.join(missing)}. Install the extra: "
            "pip install '.[many]' in a clone of the repository."
        )
