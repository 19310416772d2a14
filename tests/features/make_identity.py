"""Made ``identity.npz``: the output of the npm package @vladmandic/face-api for two faces.

    npm install @vladmandic/face-api@1.7.15 @tensorflow/tfjs@4.22.0  # in a folder of its own
    python tests/faces/make_identity.py THAT_FOLDER

The faces are the first two pictures of ``faces.png``, brought from 192 to the 150 px of a chip by PIL, bilinearly. The
package runs on tensorflow.js, in float32 on the CPU. It divides pixels by 255 where dlib
divides them by 256 (input_rgb_image_sized in dlib/dnn/input.h); the pixels are scaled to compensate. The tests need
none of this.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
PROGRAM = """
const fs = require("fs");
const Module = require("module");
const load = Module._load;  // the package asks for the native backend; any other does as well
Module._load = (name, ...rest) => load(name === "@tensorflow/tfjs-node" ? "@tensorflow/tfjs" : name, ...rest);
const tf = require("@tensorflow/tfjs");
const faceapi = require("@vladmandic/face-api/dist/face-api.node.js");
const stem = "node_modules/@vladmandic/face-api/model/face_recognition_model";
const manifest = JSON.parse(fs.readFileSync(stem + "-weights_manifest.json"));
const bin = Uint8Array.from(fs.readFileSync(stem + ".bin")).buffer;
const net = new faceapi.FaceRecognitionNet();
net.loadFromWeightMap(tf.io.decodeWeights(bin, manifest.flatMap((group) => group.weights)));
const pixels = Uint8Array.from(fs.readFileSync(0));
const input = tf.tensor4d(pixels, [pixels.length / (150 * 150 * 3), 150, 150, 3], "float32");
const mean = tf.tensor1d([122.782, 117.001, 104.298]);
const given = input.sub(mean).mul(255 / 256).add(mean);
const rows = given.unstack().map((picture) => net.forward(picture.expandDims(0)));
Promise.all(rows).then((found) => console.log(JSON.stringify(found.map((row) => Array.from(row.dataSync())))));
"""


def chips() -> np.ndarray:
    """uint8 ``[2, 150, 150, 3]``."""
    row = Image.open(HERE.parent / "faces" / "faces.png").convert("RGB")
    pictures = (row.crop((left, 0, left + 192, 192)) for left in (0, 192))
    return np.stack([np.array(picture.resize((150, 150), Image.Resampling.BILINEAR)) for picture in pictures])


if __name__ == "__main__":
    done = subprocess.run(
        ["node", "-e", PROGRAM],
        input=chips().tobytes(),
        cwd=sys.argv[1],
        capture_output=True,
        check=True,
    )
    vectors = json.loads(done.stdout.decode().splitlines()[-1])
    np.savez_compressed(HERE / "identity.npz", vectors=np.float32(vectors))
