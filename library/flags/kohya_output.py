"""kohya's flags about what a run writes: files, states, samples, logs, uploads."""

from __future__ import annotations

from library.flags.flag import Flag, group, otherwise

SAMPLERS = (
    "ddim",
    "pndm",
    "lms",
    "euler",
    "euler_a",
    "heun",
    "dpm_2",
    "dpm_2_a",
    "dpmsolver",
    "dpmsolver++",
    "dpmsingle",
    "k_lms",
    "k_euler",
    "k_euler_a",
    "k_dpm_2",
    "k_dpm_2_a",
)

SAVING = group(
    "Saving",
    Flag("output_dir", help="Folder for everything the run writes.", path=True),
    Flag("output_name", help="Name of the LoRA files without ending; 'last' where none is given."),
    Flag("save_model_as", default="safetensors", help="File type.", choices=(None, "ckpt", "pt", "safetensors")),
    Flag(
        "save_precision",
        help="Number format in the file; without it the format that was trained.",
        choices=(None, "float", "fp16", "bf16"),
    ),
    Flag("save_every_n_epochs", int, help="Save after every n-th epoch."),
    Flag("save_every_n_steps", int, help="Save after every n-th step."),
    Flag("save_n_epoch_ratio", int, help="Save at least this many times over the whole run."),
    Flag("save_last_n_epochs", int, help="Keep only the files of the last n epochs."),
    Flag("save_last_n_steps", int, help="Keep only the files of the last n steps."),
    Flag("no_metadata", bool, False, "Leave the training record out of the file."),
    Flag("training_comment", help="A comment of one's own for the file's training record."),
)

STATE = group(
    "State and resuming",
    Flag("save_state", bool, False, "Save the full state (optimizer included) beside each file, to go on from later."),
    Flag("save_state_on_train_end", bool, False, "Save the full state at the end only."),
    Flag("save_last_n_epochs_state", int, help="Keep only the states of the last n epochs."),
    Flag("save_last_n_steps_state", int, help="Keep only the states of the last n steps."),
    Flag("resume", help="State folder to go on from.", path=True),
    Flag("resume_from_huggingface", bool, False, "--resume names a state on the hub: user/repo/path."),
    Flag("initial_epoch", int, help="Number of the first epoch (1 = from the start)."),
    Flag("initial_step", int, help="Number of the first step, counted over the whole run; wins over --initial_epoch."),
    Flag(
        "skip_until_initial_step",
        bool,
        False,
        "Count --max_train_steps over the whole run and skip what comes before the first step.",
        served=otherwise("says what is done here always: the run goes on at that step's place in the data."),
    ),
)

SAMPLES = group(
    "Sample pictures",
    Flag("sample_prompts", help="File of prompts to draw during training (.txt, .toml or .json).", path=True),
    Flag("sample_every_n_steps", int, help="Draw after every n-th step."),
    Flag("sample_every_n_epochs", int, help="Draw after every n-th epoch; wins over --sample_every_n_steps."),
    Flag("sample_at_first", bool, False, "Draw before training too."),
    Flag("sample_sampler", default="ddim", help="Sampler of prompts that name none.", choices=SAMPLERS),
)

VALIDATION = group(
    "Validation",
    Flag("validation_split", float, 0.0, "Part of the pictures kept out of training to measure the loss on, 0 to 1."),
    Flag("validation_seed", int, help="Seed that picks those pictures."),
    Flag("validate_every_n_steps", int, help="Measure after every n-th step."),
    Flag("validate_every_n_epochs", int, help="Measure after every n-th epoch."),
    Flag("max_validation_steps", int, help="Most batches in one measurement."),
)

METADATA = group(
    "Model card fields in the file",
    Flag("metadata_title", help="Title; the output name where none is given."),
    Flag("metadata_author", help="Author."),
    Flag("metadata_description", help="Description."),
    Flag("metadata_license", help="Licence."),
    Flag("metadata_tags", help="Tags, separated by commas."),
    Flag("metadata_usage_hint", help="How to use it."),
    Flag("metadata_thumbnail", help="Small picture as a data URL."),
    Flag("metadata_merged_from", help="What it was merged from."),
    Flag("metadata_trigger_phrase", help="Words that call it up."),
    Flag("metadata_preprocessor", help="Preparation its input needs."),
    Flag("metadata_is_negative_embedding", help="Whether it is meant for negative prompts (true or false)."),
)

LOGGING = group(
    "Logging",
    Flag("logging_dir", help="Folder for TensorBoard logs.", path=True),
    Flag(
        "log_with",
        help="Where figures are logged; tensorboard where only --logging_dir is given.",
        choices=("tensorboard", "wandb", "all"),
    ),
    Flag("log_prefix", help="Text in front of the log folder's time stamp."),
    Flag("log_tracker_name", help="Name of the project in the log."),
    Flag("log_tracker_config", help="TOML file with options for the loggers.", path=True),
    Flag("wandb_run_name", help="Name of this run at Weights & Biases."),
    Flag(
        "wandb_api_key",
        help="Key for Weights & Biases; the environment variable WANDB_API_KEY is the safer place.",
        secret=True,
    ),
    Flag("log_config", bool, False, "Log all settings too (never keys or tokens)."),
    Flag(
        "console_log_level",
        help="Least weighty message that is shown; INFO where none is given.",
        choices=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
    ),
    Flag("console_log_file", help="Write the messages to this file instead of the screen.", path=True),
    Flag("console_log_simple", bool, False, "Plain messages without colour or columns."),
)

HUB = group(
    "Upload to the Hugging Face hub",
    Flag("huggingface_repo_id", help="Repository to upload to: user/name."),
    Flag("huggingface_repo_type", help="Kind of repository; model where none is given."),
    Flag("huggingface_path_in_repo", help="Folder in the repository."),
    Flag("huggingface_token", help="Access token; 'hf auth login' or HF_TOKEN is the safer place.", secret=True),
    Flag(
        "huggingface_repo_visibility",
        help="public or private, for a repository that is made now; private where none is given.",
    ),
    Flag("save_state_to_huggingface", bool, False, "Upload the states too."),
    Flag("async_upload", bool, False, "Upload in the background while training goes on."),
)

FILES = group(
    "Settings files",
    Flag("config_file", help="TOML file (or GUI preset .json) of flags; the command line wins over it.", path=True),
    Flag(
        "output_config",
        bool,
        False,
        "Write the settings that differ from the defaults to --config_file's path, and end.",
    ),
)

FLAGS = (*FILES, *SAVING, *STATE, *SAMPLES, *VALIDATION, *METADATA, *LOGGING, *HUB)
