"""The rooms of the trainer; what every program of this folder needs before any library is imported."""

import logging

# bitsandbytes comes with diffusers and accelerate, and says at its import what it lacks on a CPU, where nothing here asks for it.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
