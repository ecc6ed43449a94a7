"""Which test shows that a flag does what docs/flags.md says: test -> the flags it shows."""

from __future__ import annotations

RESULT = "tests/train/test_flags.py::test_a_flag_changes_what_is_trained"
SAME = "tests/train/test_flags.py::test_a_flag_of_speed_or_memory_trains_the_same"
OTHERWISE = "tests/train/test_flags.py::test_what_is_served_otherwise_trains_the_same_and_says_so"

TESTS: dict[str, str] = {
    RESULT: """
        adaptive_noise_scale caption_dropout_every_n_epochs caption_dropout_rate caption_prefix caption_separator
        caption_suffix caption_tag_dropout_rate clip_skip color_aug debiased_estimation_loss flip_aug
        gradient_accumulation_steps huber_c huber_scale huber_schedule ip_noise_gamma
        ip_noise_gamma_random_strength keep_tokens learning_rate loss_type lr_scheduler max_grad_norm max_timestep
        max_token_length min_snr_gamma min_timestep multires_noise_discount multires_noise_iterations network_alpha
        network_args network_dim network_dropout network_module network_train_text_encoder_only network_train_unet_only
        noise_offset noise_offset_random_strength optimizer_args optimizer_type resolution
        scale_v_pred_loss_like_noise_pred scale_weight_norms seed shuffle_caption text_encoder_lr token_warmup_step
        token_warmup_min train_batch_size unet_lr use_lion_optimizer v_parameterization v_pred_like_loss weighted_captions
        zero_terminal_snr""",
    SAME: """
        console_log_file console_log_simple cpu_offload_checkpointing ddp_timeout gradient_checkpointing
        max_data_loader_n_workers sdpa vae_batch_size""",
    OTHERWISE: """
        ddp_gradient_as_bucket_view ddp_static_graph fused_backward_pass highvram lowram mem_eff_attn
        persistent_data_loader_workers skip_until_initial_step tokenizer_cache_dir""",
    "tests/train/test_flags.py::test_the_flag_of_one_script_that_is_served_otherwise_is_announced":
        "disable_mmap_load_safetensors",
    "tests/train/test_text_sliders.py::test_the_file_tells_its_texts_and_holds_no_text_path": "prompts_file",
    "tests/train/test_text_sliders.py::test_flags_of_text_sliders_change_what_is_learned":
        "text_slider_states text_slider_pool max_denoising_steps leco_denoise_guidance_scale attributes",
    "tests/train/test_text_sliders.py::test_every_prompt_is_drawn_at_every_strength_in_one_picture": "slider_sample_strengths",
    "tests/train/test_text_sliders.py::test_a_prompt_without_a_strength_takes_the_one_of_the_run": "sample_adapter_strength",
    "tests/train/test_flags.py::test_a_compiled_model_trains_the_same": "torch_compile dynamo_backend",
    "tests/train/test_flags.py::test_weights_are_kept_in_8_bits_and_widened_when_used": "fp8_base fp8_base_unet",
    "tests/families/test_quantised.py::test_adapters_see_the_quantised_model_and_its_gradients": "base_quantization",
    "tests/families/test_assistant.py::test_the_assistant_acts_in_training_at_its_own_strength_whatever_the_sliders":
        "assistant_lora",
    "tests/families/test_swapping.py::test_blocks_that_wait_in_main_memory_leave_gradients_as_they_are": "blocks_to_swap",
    "tests/families/test_family_flags.py::test_flags_of_one_architecture_change_what_is_learned": """
        clip_l_dropout_rate clip_g_dropout_rate t5_dropout_rate pos_emb_random_crop_rate enable_scaled_pos_embed fp8_vl
        fp8_scaled timestep_sampling expert""",
    "tests/families/test_family_flags.py::test_rates_of_parts_are_those_of_their_layers":
        "self_attn_lr cross_attn_lr mlp_lr llm_adapter_lr",
    "tests/families/test_family_flags.py::test_a_rate_of_layers_without_adapters_names_the_way_out": "mod_lr",
    "tests/config/test_resolve.py::test_a_model_type_that_the_file_contradicts_stops_with_the_way_out": "model_type",
    "tests/train/test_flags.py::test_full_fp16_gradients_are_unscaled": "full_fp16",
    "tests/train/test_flags.py::test_precision_follows_its_flags_where_there_is_a_gpu":
        "mixed_precision no_half_vae full_bf16",
    "tests/train/test_flags.py::test_a_run_may_begin_at_a_later_step_or_epoch": "initial_step initial_epoch",
    "tests/train/test_flags.py::test_a_lora_goes_on_from_another_with_its_rank": "network_weights dim_from_weights",
    "tests/train/test_flags.py::test_base_weights_are_merged_at_their_strength": "base_weights base_weights_multiplier",
    "tests/train/test_flags.py::test_regularisation_pictures_count_with_their_weight": "reg_data_dir prior_loss_weight",
    "tests/train/test_flags.py::test_debug_dataset_shows_and_writes_what_would_be_trained_on": "debug_dataset",
    "tests/train/test_flags.py::test_truncated_pictures_are_refused_or_taken": "allow_truncated_images",
    "tests/train/test_flags.py::test_the_tracker_file_reaches_tensorboard":
        "log_tracker_config log_prefix log_tracker_name log_config logging_dir log_with",
    "tests/train/test_flags.py::test_typed_tokens_reach_the_clients_and_nothing_else": "wandb_api_key huggingface_token",
    "tests/train/test_flags.py::test_a_state_on_the_hub_is_downloaded_and_resumed": "resume_from_huggingface",
    "tests/train/test_flags.py::test_files_and_states_are_uploaded": """
        huggingface_repo_id huggingface_path_in_repo huggingface_repo_visibility save_state_to_huggingface async_upload
        huggingface_repo_type""",
    "tests/train/test_flags.py::test_masks_and_transparency_weigh_the_loss": "masked_loss alpha_mask conditioning_data_dir",
    "tests/train/test_flags.py::test_samples_are_drawn_when_they_are_asked_for":
        "sample_prompts sample_at_first sample_every_n_steps sample_every_n_epochs",
    "tests/train/test_flags.py::test_deepspeed_gets_its_own_settings": """
        deepspeed zero_stage offload_optimizer_device offload_optimizer_nvme_path offload_param_device
        offload_param_nvme_path zero3_init_flag zero3_save_16bit_model fp16_master_weights_and_gradients""",
    "tests/train/test_attention.py::test_xformers_serves_the_denoiser_where_it_is_asked_for_and_can_work": "xformers",
    "tests/train/test_endings.py::test_measuring_disturbs_nothing_of_the_training":
        "validate_every_n_steps validate_every_n_epochs max_validation_steps",
    "tests/train/test_endings.py::test_a_run_that_gets_worse_stops_early_with_its_best_and_its_last_file":
        "early_stopping_patience",
    "tests/train/test_endings.py::test_the_file_holds_the_moving_average_and_the_other_file_the_weights":
        "ema_decay save_without_ema",
    "tests/train/test_endings.py::test_the_numbered_last_file_and_fewer_digits_are_options":
        "epoch_digits number_last save_every_n_epochs max_train_epochs",
    "tests/train/test_diagnosing.py::test_the_verdict_can_be_left_out": "no_diagnosis",
    "tests/train/test_endings.py::test_states_go_by_their_own_rule": "save_last_n_steps_state",
    "tests/train/test_endings.py::test_state_at_the_end_alone": "save_state_on_train_end",
    "tests/train/test_runs.py::test_files_have_kohyas_names":
        "save_every_n_steps save_state output_name output_dir max_train_steps",
    "tests/train/test_runs.py::test_a_resumed_run_equals_an_unbroken_one": "resume",
    "tests/train/test_runs.py::test_older_files_go_where_only_the_last_are_wanted": "save_last_n_steps",
    "tests/train/test_runs.py::test_dry_run_shows_the_settings_and_trains_nothing": "dry_run",
    "tests/train/test_runs.py::test_a_wrong_data_folder_ends_with_exit_code_1_and_the_right_path": "train_data_dir",
    "tests/save/test_save_files.py::test_last_n_epochs_keeps_so_many_files": "save_last_n_epochs save_last_n_epochs_state",
    "tests/save/test_save_files.py::test_epoch_ratio_gives_so_many_files": "save_n_epoch_ratio",
    "tests/save/test_save_files.py::test_precision_casts_alpha_too": "save_precision save_model_as",
    "tests/save/test_save_metadata.py::test_no_metadata_keeps_what_readers_need": "no_metadata",
    "tests/save/test_save_metadata.py::test_token_in_a_comment_does_not_reach_the_metadata": "training_comment",
    "tests/save/test_save_metadata.py::test_optional_modelspec_fields_follow_what_was_typed": """
        metadata_title metadata_author metadata_description metadata_license metadata_tags metadata_usage_hint
        metadata_thumbnail metadata_merged_from metadata_trigger_phrase metadata_preprocessor
        metadata_is_negative_embedding""",
    "tests/report/test_trackers.py::test_the_tracker_file_overrides_the_run_name": "wandb_run_name",
    "tests/util/test_frame.py::test_log_lines_survive_any_console_and_hold_no_secret": "console_log_level",
    "tests/config/test_toml_file.py::test_command_line_wins_over_file_and_file_over_defaults": "config_file",
    "tests/config/test_toml_file.py::test_output_config_writes_what_both_toml_readers_and_we_read_back": "output_config",
    "tests/config/test_resolve.py::test_old_optimizer_flags_mean_names": "use_8bit_adam",
    "tests/config/test_resolve.py::test_contradictions_stop_with_the_way_out": "dataset_class",
    "tests/diffusion/test_schedule.py::test_model_prediction_type_gives_kohyas_loss": "model_prediction_type",
    "tests/families/test_sd3.py::test_masks_hide_padding_from_the_text_encoders": "apply_lg_attn_mask apply_t5_attn_mask",
    "tests/config/test_resolve.py::test_documented_settings_are_offered_and_taken_when_asked_for": "recommended",
    "tests/config/test_resolve.py::test_slider_targets_are_named": "slider_lora_target",
    "tests/train/test_sliders.py::test_neutral_pictures_teach_what_slider_neutral_says": "slider_neutral",
    "tests/train/test_sliders.py::test_a_pair_pulls_as_its_two_pictures_alone_would_with_the_same_noise": "slider_pairing",
    "tests/train/test_sliders.py::test_the_last_files_alpha_makes_one_what_the_drawn_pictures_ask_for":
        "slider_calibrate",
    "tests/train/test_sliders.py::test_a_pair_teaches_the_way_from_one_picture_to_the_other": "slider_pair_goal",
    "tests/train/test_sliders.py::test_the_loss_of_a_slider_counts_noise_levels_by_the_clean_picture": "slider_loss",
    "tests/data_room/test_order.py::test_the_side_with_fewer_pictures_is_gone_through_again":
        "slider_balance",
    "tests/config/test_resolve.py::test_further_loras_for_samples_carry_a_strength": "sample_loras",
    "tests/config/test_dataset_toml.py::test_subset_wins_over_data_set_over_general_over_flag": "dataset_config",
    "tests/config/test_dataset_toml.py::test_keys_fall_back_to_the_flags_that_kohya_names": "dataset_repeats",
    "tests/config/test_dataset_toml.py::test_the_old_spelling_of_caption_extension_wins": "caption_extention",
    "tests/config/test_dataset_toml.py::test_metadata_in_folder_mode_is_one_subset": "in_json",
    "tests/families/test_sources.py::test_a_hub_id_is_recognised_and_loads_as_the_folder_does": "pretrained_model_name_or_path",
    "tests/families/test_detect.py::test_sd2_and_inpainting_are_told_by_shapes": "v2",
    "tests/families/test_sd1.py::test_another_vae_replaces_the_models_own": "vae",
    "tests/data_room/test_captions.py::test_captions_equal_kohyas":
        "keep_tokens_separator secondary_separator enable_wildcard",
    "tests/data_room/test_scan.py::test_another_ending_of_captions_is_named": "caption_extension",
    "tests/data_room/test_scan.py::test_cache_info_is_written_once_and_used_afterwards": "cache_info",
    "tests/data_room/test_scan.py::test_validation_holds_out_a_seeded_share_once_and_never_trains_on_it":
        "validation_split validation_seed",
    "tests/data_room/test_buckets.py::test_buckets_sizes_and_cuts_equal_kohyas":
        "enable_bucket min_bucket_reso max_bucket_reso bucket_reso_steps bucket_no_upscale",
    "tests/data_room/test_images.py::test_growing_is_pillows_lanczos_and_other_ways_are_used_when_asked_for":
        "resize_interpolation",
    "tests/data_room/test_images.py::test_a_random_cut_draws_columns_before_rows_as_kohya_does": "random_crop",
    "tests/data_room/test_images.py::test_a_face_crop_holds_the_face_in_its_middle_at_the_size_asked_for":
        "face_crop_aug_range",
    "tests/data_room/test_caches.py::test_latents_in_memory_are_the_encoders_of_the_fitted_pictures": "cache_latents",
    "tests/data_room/test_caches.py::test_files_have_kohyas_names_and_arrays": "cache_latents_to_disk",
    "tests/data_room/test_caches.py::test_skip_cache_check_takes_files_as_they_are": "skip_cache_check",
    "tests/data_room/test_caches.py::test_texts_are_encoded_once_and_padded_as_the_family_says":
        "cache_text_encoder_outputs cache_text_encoder_outputs_to_disk",
    "tests/data_room/test_order.py::test_kohyas_order_equals_recorded_runs_of_kohya": "kohya_order",
    "tests/optim/test_schedules.py::test_a_dotted_class_path_is_used": "lr_scheduler_type lr_scheduler_args",
    "tests/optim/test_schedules.py::test_every_rate_equals_that_of_transformers_or_diffusers": """
        lr_warmup_steps lr_decay_steps lr_scheduler_num_cycles lr_scheduler_power lr_scheduler_timescale
        lr_scheduler_min_lr_ratio""",
    "tests/sample/test_images.py::test_a_picture_is_the_one_that_diffusers_pipeline_draws": "sample_sampler",
    "tests/networks/test_adapter_files.py::test_diffusers_loads_every_module_and_draws_the_same_picture": "save_format",
}

SHOWN_BY: dict[str, str] = {flag: test for test, flags in TESTS.items() for flag in flags.split()}
"""Flag -> its test."""
