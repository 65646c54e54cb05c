"""Windows of volumes: what is masked or in the future has no influence; a past that helps."""

import copy
import re

import pytest
import torch
from torch import nn

from emodecode.errors import InputError
from emodecode.models.cost import measure_cost
from emodecode.models.networks3d import build_network3d
from emodecode.models.separable3d import Separable3D
from emodecode.models.windowed3d import LastQuery, MaskedGru, Windowed3D

SHAPE = (4, 4, 4)
HOW = ["attention", "gru"]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _encoder(n_features=6):
    return nn.Sequential(
        nn.Conv3d(1, n_features, 4), nn.BatchNorm3d(n_features), nn.Tanh(), nn.Flatten()
    )


def _network(how, window=3, **options):
    return Windowed3D(_encoder(), 6, 2, window, how, **({"width": 16} | options))


def _windows(volumes, window):
    """Volumes of a run (n, x, y, z) -> windows (n, k, x, y, z) and which of them are there."""
    n = len(volumes)
    places = torch.arange(n)[:, None] + torch.arange(1 - window, 1)
    return volumes[places.clamp(min=0)], places >= 0


# --- what has no influence -----------------------------------------------------------------------


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("fill", [0.0, 1e6, torch.nan, torch.inf])
def test_masked_volumes_have_no_influence(how, fill):
    net, x = _network(how).eval(), torch.randn(4, 3, *SHAPE)
    valid = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=torch.bool)
    filled = torch.where(valid[..., None, None, None], x, fill)
    with torch.no_grad():
        wanted, found = net(x, valid), net(filled, valid)
        everything = net(x)
    assert torch.equal(wanted, found)
    assert found.isfinite().all()
    torch.testing.assert_close(everything[3], wanted[3])
    assert all((everything[row] - wanted[row]).abs().max() > 1e-4 for row in range(3))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("fill", [0.0, 1e6, torch.nan])
def test_masked_volumes_have_no_influence_on_training(how, fill):
    """Nor on batch normalisation: its statistics are those of the volumes that are there."""
    valid = torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 1]], dtype=torch.bool)
    net, x = _network(how, dropout=0.0).train(), torch.randn(3, 3, *SHAPE)
    alone = copy.deepcopy(net.encoder)
    features = alone(x[valid][:, None])
    net(torch.where(valid[..., None, None, None], x, fill), valid).square().sum().backward()
    torch.testing.assert_close(net.encoder[1].running_mean, alone[1].running_mean)
    torch.testing.assert_close(net.encoder[1].running_var, alone[1].running_var)
    assert all(part.grad.isfinite().all() for part in net.parameters())
    assert torch.equal(net.encode(x, valid)[valid], features)


@pytest.mark.parametrize("how", HOW)
def test_other_rows_have_no_influence(how):
    net, x = _network(how).eval(), torch.randn(5, 3, *SHAPE)
    with torch.no_grad():
        together = net(x)
        alone = torch.cat([net(row[None]) for row in x])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", HOW)
def test_no_volume_after_the_newest_has_influence_and_none_too_old(how):
    net, run, changed = _network(how).eval(), torch.randn(10, *SHAPE), 4
    other = run.clone()
    other[changed] += 1
    with torch.no_grad():
        before, after = (net(*_windows(volumes, 3)) for volumes in (run, other))
    moved = (before - after).abs().max(1).values > 1e-5
    assert moved.nonzero().flatten().tolist() == [changed, changed + 1, changed + 2]


@pytest.mark.parametrize("how", HOW)
def test_start_of_a_run_is_decoded_as_by_a_shorter_window(how):
    """Two of three volumes are not there: the network of window 1 with the same weights."""
    long, short = _network(how, 3).eval(), _network(how, 1).eval()
    state = dict(long.state_dict())
    if how == "attention":
        state["summary.lags"] = state["summary.lags"][:1]
    short.load_state_dict(state, strict=True)
    x = torch.randn(4, 3, *SHAPE)
    valid = torch.tensor([False, False, True]).expand(4, 3)
    with torch.no_grad():
        torch.testing.assert_close(long(x, valid), short(x[:, -1:]))
        torch.testing.assert_close(short(x[:, -1:], valid[:, -1:]), short(x[:, -1:]))


# --- independent implementations -----------------------------------------------------------------


def test_attention_is_that_of_torch():
    own = LastQuery(16, 5, n_heads=4)
    torchs = nn.MultiheadAttention(16, 4, batch_first=True)
    parts = (own.query, own.key, own.value)
    with torch.no_grad():
        torchs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        torchs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        torchs.out_proj.weight.copy_(torch.eye(16))
        torchs.out_proj.bias.zero_()
    tokens = torch.randn(3, 5, 16)
    valid = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 0, 1, 1]], dtype=torch.bool)
    coded = tokens + own.lags[[4, 3, 2, 1, 0]]
    wanted, _ = torchs(coded[:, -1:], coded, coded, key_padding_mask=~valid)
    torch.testing.assert_close(own(tokens, valid), torch.cat([coded[:, -1], wanted[:, 0]], 1))


def test_gru_is_that_of_torch_on_the_volumes_that_are_there():
    own, torchs = MaskedGru(8), nn.GRU(8, 8, batch_first=True)
    torchs.load_state_dict({f"{k}_l0": v for k, v in own.cell.state_dict().items()})
    tokens = torch.randn(3, 5, 8)
    valid = torch.tensor([[0, 0, 0, 0, 1], [1, 1, 1, 1, 1], [0, 1, 0, 1, 1]], dtype=torch.bool)
    wanted = [torchs(row[there][None])[1][0, 0] for row, there in zip(tokens, valid, strict=True)]
    torch.testing.assert_close(own(tokens, valid), torch.stack(wanted))


@pytest.mark.parametrize("how", HOW)
def test_features_that_were_kept_give_the_same_logits(how):
    """Live: the encoder sees every volume once."""
    net, run = _network(how).eval(), torch.randn(6, *SHAPE)
    with torch.no_grad():
        windows, valid = _windows(run, 3)
        wanted = net(windows, valid)
        kept = net.encoder(run[:, None])
        features, _ = _windows(kept, 3)
        torch.testing.assert_close(net.decode(features, valid), wanted)


# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOW)
def test_gradients_reach_the_encoder_through_every_volume(how):
    net = build_network3d(
        "separable3d", shape=SHAPE, n_classes=2, window=3, window_options={"how": how}
    )
    x = torch.randn(4, 3, *SHAPE, requires_grad=True)
    net(x).square().sum().backward()
    assert not [name for name, part in net.named_parameters() if part.grad is None]
    assert (x.grad.flatten(2).abs().sum(-1) > 0).all()
    assert net.encoder.conv1.weight.grad.abs().sum() > 0


def _turns(seed, n, window):
    """Volumes with a pattern of random sign; the label is whether the last two signs differ."""
    rng = torch.Generator().manual_seed(seed)
    pattern = torch.randn(SHAPE, generator=torch.Generator().manual_seed(99))
    signs = torch.randint(0, 2, (n, 2), generator=rng) * 2 - 1
    noise = torch.randn(n, 2, *SHAPE, generator=rng)
    x = noise + signs[..., None, None, None] * pattern
    return x[:, -window:], (signs[:, 0] != signs[:, 1]).long()


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("window", [1, 2])
def test_change_between_two_volumes_is_learnt_and_not_from_one(how, window):
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh())
    net = Windowed3D(encoder, 6, 2, window, how, width=16, dropout=0.0)
    x, y = _turns(0, 1000, window)
    steps = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(6):
        for rows in torch.randperm(len(x)).split(50):
            steps.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            steps.step()
    x, y = _turns(1, 2000, window)
    with torch.no_grad():
        correct = (net.eval()(x).argmax(1) == y).float().mean().item()
    if window == 1:
        assert abs(correct - 0.5) < 0.05
    else:
        assert correct > 0.95


# --- sizes and bad input -------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOW)
def test_a_window_costs_its_encoders_and_a_little(how):
    encoder, k = Separable3D(2), 4
    one = measure_cost(encoder, (1, 16, 16, 16))
    encoder.fc = nn.Identity()
    net = Windowed3D(encoder, 256, 2, k, how)
    found = measure_cost(net, (k, 16, 16, 16))
    dense = {
        "attention": 64 * 64 * (1 + 2 * k) + 2 * k * 64 + 128 * 64,
        "gru": k * 2 * 3 * 64 * 64 + 64 * 64,
    }
    wanted = k * (one.multiply_adds - 512) + k * 256 * 64 + dense[how] + 64 * 2
    assert found.multiply_adds == wanted


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 0}, "window = 0"),
        ({"how": "lstm"}, "how = 'lstm'"),
        ({"n_heads": 3}, "width 16 for 3 heads"),
        ({"n_heads": 0}, "width 16 for 0 heads"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(InputError, match=re.escape(words)):
        _network(**({"how": "attention"} | options))


@pytest.mark.parametrize("shape", [(2, 2, *SHAPE), (2, *SHAPE), (2, 1, 3, *SHAPE)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match="expected: \\(batch, 3, x, y, z\\)"):
        _network("gru")(torch.randn(shape))
