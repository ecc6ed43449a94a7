"""Every architecture of the field is called by its name, alone and with a user interface's prefix, ours and the others."""

from __future__ import annotations

import pytest

from library.families import detect
from library.util.header import Header

IN, LABEL = "input_blocks.0.0.weight", "label_emb.0.0.weight"
TEXT = "input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"
FLUX = ("double_blocks.0.img_attn.norm.key_norm.scale", "img_in.weight", "vector_in.in_layer.weight")
WAN = ("head.modulation", "time_projection.1.weight")
COSMOS = ("x_embedder.proj.1.weight", "blocks.0.self_attn.q_proj.weight")
LUMINA = ("layers.0.adaLN_modulation.1.weight", "cap_embedder.0.weight")
CHROMA = ("distilled_guidance_layer.in_proj.weight", "double_blocks.0.img_attn.qkv.weight", FLUX[0])
CLIP_UNET = {"conv_in.weight": (320, 4, 3, 3), "down_blocks.0.resnets.0.conv1.weight": (8, 8)}
JOINT = ("single_transformer_blocks.0.proj_mlp.weight", "context_embedder.weight")


def unet(channels: int, block: int, width: int, label: int = 0) -> dict[str, tuple[int, ...]]:
    sized = {LABEL: (1280, label)} if label else {}
    return {IN: (320, channels, 3, 3), TEXT.format(block): (640, width), **sized}


def names(*keys: str, **shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(keys, (8, 8)) | shapes


OURS = {
    "SD 1": ("sd1", unet(4, 1, 768)),
    "SD 2": ("sd1", unet(4, 1, 1024)),
    "SD 1, diffusers": ("sd1", CLIP_UNET | {"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768)}),
    "SDXL": ("sdxl", unet(4, 4, 2048, 2816)),
    "SDXL inpainting": ("sdxl", unet(9, 4, 2048, 2816)),
    "SDXL, diffusers": ("sdxl", CLIP_UNET | {"add_embedding.linear_1.weight": (1280, 2816),
                                             "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": (640, 2048)}),
    "Flux.1 schnell": ("flux1", names(*FLUX)),
    "Flux.1 dev": ("flux1", names(*FLUX, "guidance_in.in_layer.weight")),
    "Flux.1 dev, fp8": ("flux1", names(*FLUX, "scaled_fp8")),
    "Flux.2": ("flux2", names("single_stream_modulation.lin.weight", *FLUX[:2])),
    "Chroma": ("chroma", names(*CHROMA)),
    "HunyuanImage": ("hunyuanimage", names("byt5_in.fc1.weight", "double_blocks.0.img_attn_qkv.weight",
                                           "txt_in.individual_token_refiner.blocks.0.norm1.weight")),
    "SD 3": ("sd3", names("joint_blocks.0.x_block.attn.qkv.weight", "pos_embed")),
    "AuraFlow": ("auraflow", names("double_layers.0.attn.w2q.weight", "cond_seq_linear.weight")),
    "Z-Image": ("zimage", names("layers.0.adaLN_modulation.0.weight", "cap_embedder.0.weight", "x_pad_token")),
    "Lumina 2": ("lumina2", names(*LUMINA)),
    "Qwen-Image": ("qwenimage", names("txt_norm.weight", "transformer_blocks.0.img_mlp.net.0.proj.weight")),
    "Anima": ("anima", names(*COSMOS, "llm_adapter.embed.weight")),
    "Wan": ("wan", names(*WAN) | {"patch_embedding.weight": (5120, 16, 1, 2, 2)}),
    "Wan 2.2 5B": ("wan5b", names(*WAN) | {"patch_embedding.weight": (3072, 48, 1, 2, 2)}),
}
OTHERS = {
    "SDXL refiner": [unet(4, 4, 1280, 2560)],
    "Kolors": [unet(4, 4, 2048, 5632), CLIP_UNET | {"add_embedding.linear_1.weight": (1280, 5632)}],
    "ControlNet": [names("input_hint_block.0.weight"), names("controlnet_cond_embedding.conv_in.weight"),
                   names("controlnet_blocks.0.weight", *JOINT, "time_text_embed.text_embedder.linear_1.weight"),
                   names("controlnet_blocks.0.weight", "transformer_blocks.0.norm1_context.linear.weight",
                         "pos_embed.proj.weight")],
    "Stable Video Diffusion": [unet(8, 1, 1024) | names("input_blocks.1.0.time_stack.in_layers.0.weight"),
                               CLIP_UNET | names("down_blocks.0.resnets.0.temporal_res_block.conv1.weight",
                                                 "add_embedding.linear_1.weight")],
    "Chroma Radiance": [names(*CHROMA, "nerf_blocks.0.param_generator.weight")],
    "Flux.3": [names("early_stream_modulations.image.lin.weight"), names("early_stream_modulations.image.linear.weight")],
    "HunyuanVideo": [names("txt_in.individual_token_refiner.blocks.0.norm1.weight", "double_blocks.0.img_attn_qkv.weight"),
                     names("context_embedder.token_refiner.refiner_blocks.0.norm1.weight", *JOINT,
                           "time_text_embed.text_embedder.linear_1.weight")],
    "OmniGen 2": [names(*LUMINA, "ref_image_refiner.0.attn.to_q.weight")],
    "Lumina-Next": [names("time_caption_embed.caption_embedder.0.weight", "layers.0.norm1.linear.weight",
                          "patch_embedder.proj.weight")],
    "Krea 2": [names("txtfusion.projector.weight"), names("text_fusion.layerwise_blocks.0.norm1.weight")],
    "Ideogram 4": [names("llm_cond_proj.weight", "embed_image_indicator.weight")],
    "Qwen-Image 2.1": [names("txt_in.text_norm.weight", "img_in.weight")],
    "HiDream-I1": [names("double_stream_blocks.0.block.adaLN_modulation.1.bias")],
    "Kandinsky 5": [names("visual_transformer_blocks.0.self_attention.to_query.weight")],
    "Cosmos-Predict2": [names(*COSMOS, "pos_embedder.dim_spatial_range"),
                        names("patch_embed.proj.weight", "time_embed.t_embedder.linear_1.weight")],
    "Wan VACE": [names(*WAN, "vace_patch_embedding.weight") | {"patch_embedding.weight": (5120, 16, 1, 2, 2)}],
    "Wan image-to-video": [names(*WAN) | {"patch_embedding.weight": (5120, 36, 1, 2, 2)}],
    "Wan (from pictures, or with other latents)": [names(*WAN) | {"patch_embedding.weight": (5120, 52, 1, 2, 2)}],
    "LTX-Video": [names("patchify_proj.weight", "transformer_blocks.27.scale_shift_table"),
                  names("proj_in.weight", "time_embed.emb.timestep_embedder.linear_1.weight")],
    "LTX-2": [names("patchify_proj.weight", "av_ca_a2v_gate_adaln_single.linear.weight"),
              names("proj_in.weight", "audio_proj_in.weight", "time_embed.emb.timestep_embedder.linear_1.weight")],
    "Stable Cascade (stage C)": [names("clip_txt_mapper.weight")],
    "Stable Cascade (stage B)": [names("clip_mapper.weight"), names("down_blocks.1.0.channelwise.0.weight")],
    "Sana": [names("blocks.0.mlp.inverted_conv.conv.weight", "blocks.0.cross_attn.q_linear.weight",
                   "y_embedder.y_proj.fc1.weight", "t_block.1.weight"),
             names("transformer_blocks.0.ff.conv_inverted.weight", "caption_projection.linear_1.weight")],
    "PixArt": [names("y_embedder.y_proj.fc1.weight", "t_block.1.weight", "blocks.0.cross_attn.q_linear.weight"),
               names("adaln_single.emb.timestep_embedder.linear_1.weight", "pos_embed.proj.weight")],
    "ERNIE-Image": [names("layers.0.adaLN_sa_ln.weight")],
    "PRX": [names("blocks.0.attention.img_qkv_proj.weight")],
    "CogView 3 or 4": [names("patch_embed.text_proj.weight", "time_condition_embed.condition_embedder.linear_1.weight")],
    "OmniGen": [names("patch_embedding.output_image_proj.weight")],
    "Ovis-Image": [names("context_embedder_norm.weight", *JOINT)],
    "LongCat-Image or Bria": [names("time_embed.timestep_embedder.linear_1.weight", *JOINT)],
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model.", "transformer."])
@pytest.mark.parametrize("title", OURS)
def test_an_architecture_of_ours_is_recognised(title: str, prefix: str) -> None:
    family, shapes = OURS[title]
    found = detect.classify(Header({prefix + name: shape for name, shape in shapes.items()}))
    assert (found.family, found.kind) == (family, "single file")


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize(("title", "number"), [(title, n) for title, kinds in OTHERS.items() for n in range(len(kinds))])
def test_another_architecture_is_named_and_never_taken_for_one_of_ours(title: str, number: int, prefix: str) -> None:
    found = detect.classify(Header({prefix + name: shape for name, shape in OTHERS[title][number].items()}))
    assert (found.family, found.kind, found.what) == (None, "single file", detect.named(title))


@pytest.mark.parametrize(
    "name", ["blk.0.attn_q.weight", "enc.blk.0.attn_q.weight", "text_model.embeddings.position_embedding.weight"]
)
def test_a_text_encoder_is_told_by_other_names_too(name: str) -> None:
    assert detect.classify(Header({name: (8, 8)})).kind == "text encoder"


@pytest.mark.parametrize(("title", "words"), [("AuraFlow", "an AuraFlow model"), ("SDXL refiner", "an SDXL refiner model"),
                                              ("Kolors", "a Kolors model"), ("U-Net with size embedding",
                                                                             "a U-Net with size embedding model")])
def test_names_have_the_right_article(title: str, words: str) -> None:
    assert detect.named(title) == words
