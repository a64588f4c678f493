"""Look for sink channels (RF-CLIP) in the embedded models and keep the record beside their weights.

Run it again whenever the weights change: `python scripts/fit_sinks.py`. It reads every fourth
picture of Scenes, without labels.
"""

from ovsslib import load_backbone, open_dataset
from ovsslib.clip.sinks import fit_sink_channels
from ovsslib.images.pictures import normalise, resize_picture
from ovsslib.paths import data


def main() -> None:
    """Fit, print and store one record per embedded model."""
    scenes = open_dataset("scenes")
    for name in ("sceneclip", "sceneclip-p32"):
        backbone = load_backbone(name)
        pictures = (
            normalise(resize_picture(scenes[index][0], 224, 2048)).to(backbone.device)
            for index in range(0, len(scenes), 4)
        )
        record = fit_sink_channels(backbone, pictures)
        print(record, record.save(data(f"models/{name}/sinks.json")), sep="\n")


if __name__ == "__main__":
    main()
