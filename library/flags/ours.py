"""Flags that kohya does not have. Their abbreviations never take one of kohya's away."""

from __future__ import annotations

from library.flags.flag import FAMILY, Flag, group
from library.flags.scripts import NETWORK

FLAGS = group(
    "Of this program",
    Flag("dry_run", bool, False, "Show every setting with its origin, check everything, train nothing.", ours=True),
    Flag(
        "kohya_order",
        bool,
        False,
        "Draw all random numbers in kohya's order, faults included, to compare runs.",
        ours=True,
    ),
    Flag(
        "recommended",
        bool,
        False,
        "Use what is documented as good for the base model's architecture wherever nothing else is asked for.",
        ours=True,
    ),
    Flag(
        "base_quantization",
        help="Keep the linear layers of the frozen model's blocks in 4 bits (nf4, about a quarter of the memory) or 8 bits "
        "with a scale for every row (int8, fp8); saves most with --gradient_checkpointing.",
        choices=("nf4", "int8", "fp8"),
        ours=True,
    ),
    Flag(
        "assistant_lora",
        path=True,
        help="A frozen LoRA that helps while training and is in neither sample pictures nor the saved file, as FILE=STRENGTH "
        "(1 where left out): the training adapter (de-distillation) of a Turbo model.",
        ours=True,
    ),
    Flag(
        "no_diagnosis",
        bool,
        False,
        "Leave out the verdict at the end of the run (undertrained, good, overtrained, ...), which costs about 3 % of its time.",
        ours=True,
    ),
    Flag("epoch_digits", int, 6, "Digits of the epoch number in file names.", ours=True),
    Flag(
        "number_last",
        bool,
        False,
        "Write the last file a second time with its number, for grids over epochs.",
        ours=True,
    ),
    Flag(
        "save_format",
        default="kohya",
        help="Spelling of the names in the LoRA file.",
        choices=("kohya", "comfy", "diffusers"),
        ours=True,
    ),
    Flag(
        "early_stopping_patience",
        int,
        help="End the run when the validation loss has not fallen in this many measurements; the best file is kept.",
        ours=True,
    ),
    Flag(
        "ema_decay",
        float,
        help="Keep a moving average of the LoRA and save that: 0.999 for long runs, 0.99 for short ones.",
        ours=True,
    ),
    Flag(
        "qwen_vl",
        help="File of the Qwen2.5-VL text encoder.",
        scripts=(NETWORK,),
        served=FAMILY,
        path=True,
        ours=True,
    ),
    Flag(
        "umt5",
        help="File of the UMT5 text encoder (Wan).",
        scripts=(NETWORK,),
        served=FAMILY,
        path=True,
        ours=True,
    ),
    Flag(
        "expert",
        choices=("high_noise", "low_noise"),
        help="Which of Wan 2.2's two models is trained, at its own timesteps; of a folder it also chooses the weights.",
        scripts=(NETWORK,),
        served=FAMILY,
        ours=True,
    ),
    Flag(
        "pile_t5",
        help="File of the Pile-T5 text encoder (AuraFlow).",
        scripts=(NETWORK,),
        served=FAMILY,
        path=True,
        ours=True,
    ),
    Flag(
        "mistral",
        help="File of the Mistral Small 3 text encoder (Flux.2 dev).",
        scripts=(NETWORK,),
        served=FAMILY,
        path=True,
        ours=True,
    ),
    Flag("save_without_ema", bool, False, "Save the LoRA without the average too, as NAME-noema.", ours=True),
    Flag(
        "allow_truncated_images",
        bool,
        False,
        "Train on pictures that are cut off at their end; what is missing is grey.",
        ours=True,
    ),
    Flag(
        "sample_loras",
        many=True,
        path=True,
        help="Further LoRA files for sample pictures only, each as FILE=STRENGTH (0.7; 1 where left out).",
        ours=True,
    ),
)
