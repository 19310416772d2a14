"""Made ``person.npz``: what LiteRT, an interpreter of TensorFlow Lite's files, says of the pictures in ``faces.png``.

    pip install ai-edge-litert pillow numpy
    unzip -p mediapipe-0.10.21-....whl mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite > selfie.tflite
    python tests/faces/make_person_reference.py selfie.tflite

Every fourth pixel of the masks is kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

HERE = Path(__file__).parent

if __name__ == "__main__":
    interpreter = Interpreter(sys.argv[1])
    interpreter.allocate_tensors()
    row = np.array(Image.open(HERE / "faces.png").convert("RGB"))
    masks = []
    for picture in np.split(row, row.shape[1] // 192, axis=1):
        img = np.asarray(Image.fromarray(picture).resize((256, 256), Image.Resampling.BILINEAR), np.float32) / 255
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], img[None])
        interpreter.invoke()
        masks.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0, ::4, ::4, 0])
    np.savez_compressed(HERE / "person.npz", masks=np.stack(masks))
