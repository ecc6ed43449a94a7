"""Names of the entry scripts whose flags are declared here, kohya's file names."""

NETWORK = "train_network.py"
SDXL = "sdxl_train_network.py"
SD3 = "sd3_train_network.py"
FLUX = "flux_train_network.py"
LUMINA = "lumina_train_network.py"
HUNYUAN = "hunyuan_image_train_network.py"
ANIMA = "anima_train_network.py"

SCRIPTS = (NETWORK, SDXL, SD3, FLUX, LUMINA, HUNYUAN, ANIMA)
FLOW_SCRIPTS = (SD3, FLUX, LUMINA, HUNYUAN, ANIMA)
"""Scripts of models that are trained by flow matching."""
LATER_SCRIPTS = (SDXL, *FLOW_SCRIPTS)
"""All but the first."""
LECO = "train_leco.py"
SDXL_LECO = "sdxl_train_leco.py"
SAME_FLAGS = {LECO: NETWORK, SDXL_LECO: SDXL}
"""Scripts of text sliders -> the script whose flags they take."""
