"""Drawn people with exact landmarks: endless identities to try and to pre-train an avatar with."""

from pgn.avatar.synthetic.identity import Identity, identity
from pgn.avatar.synthetic.poses import Pose, poses
from pgn.avatar.synthetic.render import render

__all__ = ["Identity", "Pose", "identity", "poses", "render"]
