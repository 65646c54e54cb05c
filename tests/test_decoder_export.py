"""Networks as ONNX graphs that say what the decoder says."""

import numpy as np
import onnxruntime
import pytest
import torch

from emodecode.decoder import Decoder
from emodecode.errors import InputError
from emodecode.storage import graph
from small_decoder import CLASSES, X, fit, make_contract


def outputs(path, X):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"features": X})[0]


def test_a_graph_of_selection_scaling_members_and_temperature(tmp_path):
    pipeline = fit("hanson_mlp", n_voxels=50)
    decoder = Decoder(pipeline, make_contract(), 0.6)
    assert decoder.export(tmp_path / "net.onnx") <= graph.TOLERANCE
    for rows in (X, X[:1], X[:5]):
        found = outputs(tmp_path / "net.onnx", rows)
        assert found.shape == (len(rows), len(CLASSES))
        np.testing.assert_allclose(found, decoder.predict(rows), atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_a_graph_of_a_sure_network_is_cooled_as_the_decoder_is(tmp_path):
    """The temperature divides logarithms far below the smallest that is clipped."""
    pipeline = fit("hanson_mlp")
    for module in pipeline.steps[-1][1].modules_:
        with torch.no_grad():
            list(module.parameters())[-1].copy_(torch.tensor([0.0, -60.0, -80.0]))
            list(module.parameters())[-2].zero_()
    decoder = Decoder(pipeline, make_contract(), 20.0)
    decoder.export(tmp_path / "net.onnx")
    found = outputs(tmp_path / "net.onnx", X)
    wanted = np.exp([0.0, -3.0, -4.0])
    np.testing.assert_allclose(found[0], wanted / wanted.sum(), atol=1e-5)
    np.testing.assert_allclose(found, decoder.predict(X), atol=1e-6)


def test_a_graph_that_says_something_else_is_not_kept(tmp_path, monkeypatch):
    decoder = Decoder(fit("hanson_mlp"), make_contract())
    monkeypatch.setattr(graph, "_write", lambda *_, **__: None)
    monkeypatch.setattr(graph, "run_graph", lambda _, X: decoder.predict(X) + 2e-5)
    with pytest.raises(InputError, match="differ by 2e-05"):
        decoder.export(tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_other_decoders_have_no_graph(tmp_path):
    windowed = {"window": 3, "max_epochs": 1}
    for pipeline, words in (
        (fit("lda"), "LinearByGram, no network"),
        (fit("separable3d", windowed), "windows of 3"),
    ):
        with pytest.raises(InputError, match=words):
            Decoder(pipeline, make_contract()).export(tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["conv1d", "s2_conv1d", "separable3d", "resnet3d"])
@pytest.mark.parametrize("normalise", ["voxel", "volume"])
def test_every_network_has_a_graph(kind, normalise, tmp_path):
    if normalise == "volume" and not kind.endswith("3d"):
        pytest.skip("of volume networks")
    params = {"max_epochs": 1} | ({"normalise": normalise} if kind.endswith("3d") else {})
    decoder = Decoder(fit(kind, params), make_contract())
    assert decoder.export(tmp_path / "net.onnx") <= graph.TOLERANCE
    found = outputs(tmp_path / "net.onnx", X)
    np.testing.assert_allclose(found, decoder.predict(X), atol=1e-5)
