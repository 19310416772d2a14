"""Made ``reference.npz``: the output of MediaPipe's own runtime for the pictures in ``faces.png``.

Needs ``pip install mediapipe==0.10.21`` in an environment of its own; the tests do not. ``faces.png`` is a row of three
pictures of 192 px: two synthetic faces as the network takes them, and the first one turned by 17 degrees.
"""

from __future__ import annotations

from pathlib import Path

import mediapipe as mp
import numpy as np
from google.protobuf import text_format
from mediapipe.framework import calculator_pb2
from mediapipe.python._framework_bindings import calculator_graph, image_frame, resource_util
from PIL import Image

HERE = Path(__file__).parent
GRAPH = """
input_stream: "image"
output_stream: "landmarks"
output_stream: "score"
node {
  calculator: "ImageToTensorCalculator" input_stream: "IMAGE:image" output_stream: "TENSORS:input"
  options { [mediapipe.ImageToTensorCalculatorOptions.ext] {
    output_tensor_width: 192 output_tensor_height: 192 output_tensor_float_range { min: 0.0 max: 1.0 } } }
}
node { calculator: "TfLiteCustomOpResolverCalculator" output_side_packet: "OP_RESOLVER:op_resolver" }
node {
  calculator: "InferenceCalculator" input_side_packet: "OP_RESOLVER:op_resolver"
  input_stream: "TENSORS:input" output_stream: "TENSORS:output"
  options { [mediapipe.InferenceCalculatorOptions.ext] {
    model_path: "mediapipe/modules/face_landmark/face_landmark_with_attention.tflite" delegate { xnnpack {} } } }
}
node {
  calculator: "SplitTensorVectorCalculator" input_stream: "output" output_stream: "points" output_stream: "flag"
  options { [mediapipe.SplitVectorCalculatorOptions.ext] { ranges { begin: 0 end: 6 } ranges { begin: 6 end: 7 } } }
}
node {
  calculator: "TensorsToFloatsCalculator" input_stream: "TENSORS:flag" output_stream: "FLOAT:score"
  options { [mediapipe.TensorsToFloatsCalculatorOptions.ext] { activation: SIGMOID } }
}
node {
  calculator: "TensorsToFaceLandmarksWithAttention" input_stream: "TENSORS:points" output_stream: "LANDMARKS:landmarks"
}
"""


def look(picture: np.ndarray) -> tuple[np.ndarray, float]:
    """Landmarks float64 ``[478, 3]`` in pixels, and the score."""
    graph = calculator_graph.CalculatorGraph(
        graph_config=text_format.Parse(GRAPH, calculator_pb2.CalculatorGraphConfig())
    )
    result = {}
    graph.observe_output_stream("landmarks", lambda _, p: result.update(points=mp.packet_getter.get_proto(p)))
    graph.observe_output_stream("score", lambda _, p: result.update(score=mp.packet_getter.get_float(p)))
    graph.start_run()
    frame = mp.packet_creator.create_image_frame(image_format=image_frame.ImageFormat.SRGB, data=picture)
    graph.add_packet_to_input_stream("image", frame.at(0))
    graph.close_all_packet_sources()
    graph.wait_until_done()
    return 192 * np.array([[p.x, p.y, p.z] for p in result["points"].landmark]), result["score"]


if __name__ == "__main__":
    resource_util.set_resource_dir(str(Path(mp.__file__).parents[1]))
    row = np.array(Image.open(HERE / "faces.png"))
    points, scores = zip(*(look(np.ascontiguousarray(picture)) for picture in np.split(row, row.shape[1] // 192, 1)))
    np.savez_compressed(HERE / "reference.npz", points=np.float32(points), score=np.float32(scores))
