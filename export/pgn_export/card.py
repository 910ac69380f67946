"""MODEL_CARD.md beside the artifacts, from their manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pgn.files import atomic_path

CARD = "MODEL_CARD.md"


def write(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the card of a folder of artifacts."""
    with atomic_path(folder / CARD) as temporary:
        temporary.write_text(text(manifest), encoding="utf-8")


def text(manifest: dict[str, Any]) -> str:
    """The card, in Markdown."""
    artifacts = manifest["artifacts"]
    first = next(iter(artifacts.values()))
    rows = [
        f"| `{name}` | {entry['graph']} | {entry['precision']} | {_worst(entry)} |"
        for name, entry in sorted(artifacts.items())
    ]
    networks = {entry["name"]: entry["network"] for entry in artifacts.values()}
    return "\n".join(
        [
            f"# Exported perceptual gradient networks: {', '.join(networks)}",
            "",
            "Each graph predicts the gradient of a perceptual loss in one forward pass: it gives a "
            f"proxy target, and the gradient per pixel unit is `{first['gradient']}` "
            "(C x H x W elements an image). All inputs and outputs are float32, "
            f"{first['layout']}, {first['colour']}, pixels in [0, 1].",
            "",
            "| file | graph | precision | worst cosine of the residual (runtime, distance) |",
            "|---|---|---|---|",
            *rows,
            "",
            "`cached` graphs take the features that their `target_features` graph gives once per "
            "target. Cosines: against the PyTorch network in float64, on photos, at three "
            "distances from the target; the MIL interpreter verifies conversion and precision of "
            "Core ML packages, not Apple's kernels. `pgn-export verify` checks the files again; "
            "the test vectors (`*-test_vectors.safetensors`) check them on a device.",
            "",
            *[f"- **{name}**: {_about(network)}" for name, network in networks.items()],
            "",
        ]
    )


def _worst(entry: dict[str, Any]) -> str:
    if not entry.get("parity"):
        return "measured with its cached graph"
    row = min(entry["parity"], key=lambda figures: figures["cosine"])
    return f"{row['cosine']:.6f} ({row['runtime']}, {row['distance']})"


def _about(network: dict[str, Any]) -> str:
    said = [f"backbone {network['backbone']}"]
    if teacher := network.get("teacher"):
        said.append(f"teacher {teacher}")
    if quality := network.get("quality"):
        said.append(
            f"mean cosine {quality['mean_cosine']:.3f} with its teacher's exact gradient on "
            f"{quality['photos']} photos"
        )
    said.append(f"licence {network.get('licence') or 'not stated'}")
    return "; ".join(said) + "."
