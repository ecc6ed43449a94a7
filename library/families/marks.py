"""Architectures that have no family here, told by tensor names that only their files have.

Names are those of the original files and of diffusers' classes. A file of such an architecture is called by its name, so
that nobody looks for a fault in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Mark:
    """An architecture: all of ``names`` are present, none of ``without``; ``width`` and ``channels`` are the last and the
    second axis of the first name."""

    title: str
    names: tuple[str, ...]
    without: tuple[str, ...] = ()
    width: int | None = None
    channels: int | None = None
    instead: str = ""
    """What to train on instead, where there is something near."""

    def fits(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Tell whether names and shapes are this architecture's."""
        first = shapes.get(self.names[0], ())
        wide = self.width is None or first[-1:] == (self.width,)
        deep = self.channels is None or first[1:2] == (self.channels,)
        return wide and deep and all(n in shapes for n in self.names) and not any(n in shapes for n in self.without)


FROM_PICTURES = ("It draws a film from a first picture, which training on pictures has not: use the text-to-video model of the "
                 "same release (wan2.1_t2v, wan2.2_t2v).")
EXTENDED = (
    Mark("ControlNet", ("input_hint_block.0.weight",)),
    Mark("ControlNet", ("controlnet_cond_embedding.conv_in.weight",)),
    Mark("ControlNet", ("controlnet_blocks.0.weight",)),
    Mark("Stable Video Diffusion", ("input_blocks.1.0.time_stack.in_layers.0.weight",)),
    Mark("Stable Video Diffusion", ("down_blocks.0.resnets.0.temporal_res_block.conv1.weight",)),
    Mark(
        "HunyuanVideo", ("context_embedder.token_refiner.refiner_blocks.0.norm1.weight",), ("context_embedder_2.linear_1.weight",)
    ),
    Mark("Wan VACE", ("vace_patch_embedding.weight",)),
    Mark("Lumina-Next", ("time_caption_embed.caption_embedder.0.weight", "patch_embedder.proj.weight")),
    Mark("OmniGen 2", ("cap_embedder.0.weight", "ref_image_refiner.0.attn.to_q.weight")),
    Mark("OmniGen 2", ("time_caption_embed.caption_embedder.0.weight", "ref_image_refiner.0.attn.to_q.weight")),
)
"""Architectures that hold all names of one of ours and more: asked before the families."""
WAN = ("head.modulation", "condition_embedder.time_proj.weight")
"""A tensor that every Wan transformer has, in the two spellings."""
MARKS = (
    Mark("SDXL refiner", ("label_emb.0.0.weight",), width=2560),
    Mark("SDXL refiner", ("add_embedding.linear_1.weight",), width=2560),
    Mark("Kolors", ("label_emb.0.0.weight",), width=5632),
    Mark("Kolors", ("add_embedding.linear_1.weight",), width=5632),
    Mark("U-Net with size embedding", ("input_blocks.0.0.weight", "label_emb.0.0.weight")),
    Mark("U-Net with size embedding", ("conv_in.weight", "add_embedding.linear_1.weight")),
    Mark("Chroma Radiance", ("distilled_guidance_layer.in_proj.weight", "nerf_blocks.0.param_generator.weight")),
    Mark("Flux.3", ("early_stream_modulations.image.lin.weight",)),
    Mark("Flux.3", ("early_stream_modulations.image.linear.weight",)),
    Mark("HunyuanVideo", ("txt_in.individual_token_refiner.blocks.0.norm1.weight",), ("byt5_in.fc1.weight",)),
    Mark("Krea 2", ("txtfusion.projector.weight",)),
    Mark("Krea 2", ("text_fusion.layerwise_blocks.0.norm1.weight",)),
    Mark("Ideogram 4", ("llm_cond_proj.weight",)),
    Mark("Qwen-Image 2.1", ("txt_in.text_norm.weight",)),
    Mark("HiDream-I1", ("double_stream_blocks.0.block.adaLN_modulation.1.bias",)),
    Mark("Kandinsky 5", ("visual_transformer_blocks.0.self_attention.to_query.weight",)),
    Mark("Cosmos-Predict2", ("x_embedder.proj.1.weight", "blocks.0.self_attn.q_proj.weight"), ("llm_adapter.embed.weight",)),
    Mark("Cosmos-Predict2", ("patch_embed.proj.weight", "time_embed.t_embedder.linear_1.weight")),
    *(Mark("Wan image-to-video", ("patch_embedding.weight", mark), channels=36, instead=FROM_PICTURES) for mark in WAN),
    *(Mark("Wan (from pictures, or with other latents)", ("patch_embedding.weight", mark)) for mark in WAN),
    Mark("LTX-2", ("patchify_proj.weight", "av_ca_a2v_gate_adaln_single.linear.weight")),
    Mark("LTX-2", ("audio_proj_in.weight", "proj_in.weight")),
    Mark("LTX-Video", ("patchify_proj.weight",)),
    Mark("Sana", ("blocks.0.mlp.inverted_conv.conv.weight", "blocks.0.cross_attn.q_linear.weight")),
    Mark("Sana", ("transformer_blocks.0.ff.conv_inverted.weight", "caption_projection.linear_1.weight")),
    Mark("LTX-Video", ("time_embed.emb.timestep_embedder.linear_1.weight", "proj_in.weight")),
    Mark("Stable Cascade (stage C)", ("clip_txt_mapper.weight",)),
    Mark("Stable Cascade (stage B)", ("clip_mapper.weight",)),
    Mark("Stable Cascade (stage B)", ("down_blocks.1.0.channelwise.0.weight",)),
    Mark("PixArt", ("y_embedder.y_proj.fc1.weight", "t_block.1.weight")),
    Mark("PixArt", ("adaln_single.emb.timestep_embedder.linear_1.weight", "pos_embed.proj.weight")),
    Mark("HunyuanDiT", ("mlp_t5.0.weight", "blocks.0.attn1.Wqkv.weight")),
    Mark("CogView 3 or 4", ("patch_embed.text_proj.weight", "time_condition_embed.condition_embedder.linear_1.weight")),
    Mark("GLM-Image", ("glyph_projector.net.0.proj.weight",)),
    Mark("ERNIE-Image", ("layers.0.adaLN_sa_ln.weight",)),
    Mark("PRX", ("blocks.0.attention.img_qkv_proj.weight",)),
    Mark("OmniGen", ("input_x_embedder.proj.weight", "llm.layers.0.self_attn.qkv_proj.weight")),
    Mark("OmniGen", ("patch_embedding.output_image_proj.weight",)),
    Mark("Ovis-Image", ("context_embedder_norm.weight", "single_transformer_blocks.0.proj_mlp.weight")),
    Mark("LongCat-Image or Bria", ("time_embed.timestep_embedder.linear_1.weight", "single_transformer_blocks.0.proj_mlp.weight")),
    Mark("Mochi", ("time_embed.pooler.to_kv.weight",)),
)
"""The others, in the order in which they must be asked; the families are asked before all of them."""
