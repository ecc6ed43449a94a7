"""kohya's flags about pictures and captions."""

from __future__ import annotations

from pathlib import Path

from library.flags.flag import Flag, group, otherwise, stops

DATA = group(
    "Pictures",
    Flag(
        "train_data_dir",
        help="Folder that holds the picture folders, each named N_name (N = repeats) or just N.",
        path=True,
    ),
    Flag("reg_data_dir", help="Folder of regularisation pictures, laid out like --train_data_dir.", path=True),
    Flag(
        "in_json",
        help="Metadata JSON with captions of the pictures in --train_data_dir (fine-tuning style).",
        path=True,
    ),
    Flag(
        "dataset_config",
        Path,
        help="TOML or JSON file that describes the data sets; replaces the folder flags.",
        path=True,
    ),
    Flag(
        "dataset_repeats",
        int,
        1,
        "Repeats of each picture where a data set names none (metadata and --dataset_config).",
    ),
    Flag(
        "dataset_class",
        help="Python class of a data set of one's own.",
        served=stops(
            "Classes written for kohya's own data loader cannot be loaded; describe the pictures with --dataset_config."
        ),
    ),
    Flag("train_batch_size", int, 1, "Pictures in one step."),
    Flag("resolution", help="Training size in pixels: one number, or width,height."),
    Flag(
        "max_data_loader_n_workers", int, 8, "Most threads that prepare pictures ahead; 0 = none."
    ),
    Flag(
        "persistent_data_loader_workers",
        bool,
        False,
        "Keep those readers between epochs.",
        served=otherwise("concerns speed alone; pictures are read ahead by threads, which need no start-up."),
    ),
    Flag(
        "cache_info",
        bool,
        False,
        "Keep sizes and captions of a folder in a file there, so that the next start is quicker.",
    ),
    Flag("debug_dataset", bool, False, "Show what would be trained on, picture by picture, and train nothing."),
    Flag("alpha_mask", bool, False, "Take each picture's transparency as its loss mask."),
    Flag(
        "masked_loss",
        bool,
        False,
        "Weigh the loss by masks: the pictures of conditioning_data_dir, or transparency with --alpha_mask.",
    ),
    Flag(
        "conditioning_data_dir",
        help="Folder of mask pictures with the training pictures' names, for --masked_loss.",
        path=True,
    ),
)

BUCKETS = group(
    "Sizes and buckets",
    Flag(
        "enable_bucket",
        bool,
        False,
        "Sort pictures into buckets by aspect ratio; without it every picture must have --resolution's size.",
    ),
    Flag("min_bucket_reso", int, 256, "Shortest side of a bucket in pixels."),
    Flag("max_bucket_reso", int, 1024, "Longest side of a bucket in pixels."),
    Flag("bucket_reso_steps", int, 64, "Bucket sides are multiples of this."),
    Flag("bucket_no_upscale", bool, False, "Never enlarge pictures: buckets follow the pictures' own sizes."),
    Flag(
        "resize_interpolation",
        help="Filter for resizing; without it area where a picture shrinks, Lanczos where it grows.",
        choices=("lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area"),
    ),
)

CAPTIONS = group(
    "Captions",
    Flag("caption_extension", default=".caption", help="Ending of caption files (.txt is the usual one)."),
    Flag("caption_extention", help="An old spelling of --caption_extension; wins over it where given."),
    Flag("shuffle_caption", bool, False, "Shuffle the caption's tags anew for every step."),
    Flag("keep_tokens", int, 0, "Leave this many tags at the front in place when shuffling or dropping."),
    Flag(
        "keep_tokens_separator", default="", help="Mark in the caption up to which tags stay in place, for example |||."
    ),
    Flag("caption_separator", default=",", help="What separates tags."),
    Flag("secondary_separator", help="A further separator: tags joined by it are shuffled as one tag."),
    Flag(
        "enable_wildcard",
        bool,
        False,
        "Read {a|b} in captions as a choice, and the lines of a caption file as alternatives.",
    ),
    Flag("caption_prefix", help="Text put in front of every caption."),
    Flag("caption_suffix", help="Text put behind every caption."),
    Flag("caption_dropout_rate", float, 0.0, "Part of the captions that are left empty, 0 to 1."),
    Flag("caption_dropout_every_n_epochs", int, 0, "Leave all captions empty in every n-th epoch."),
    Flag("caption_tag_dropout_rate", float, 0.0, "Chance of each single tag to be left out, 0 to 1."),
    Flag("token_warmup_min", int, 1, "Tags shown at the very start of a token warm-up."),
    Flag("token_warmup_step", float, 0, "Steps until all tags are shown; below 1 it is a part of all steps."),
    Flag("weighted_captions", bool, False, "Read (word:1.2) and [word] in captions as weights."),
)

AUGMENTATION = group(
    "Augmentation",
    Flag("flip_aug", bool, False, "Mirror pictures left to right at random."),
    Flag("color_aug", bool, False, "Vary hue and gamma a little at random."),
    Flag("random_crop", bool, False, "Crop at a random place, not in the middle."),
    Flag(
        "face_crop_aug_range",
        help="Zoom range around faces, for example 2.0,4.0; file names must hold the face's place.",
    ),
)

FLAGS = (*DATA, *BUCKETS, *CAPTIONS, *AUGMENTATION)
