"""Golden values of multi-head attention and of small models from PyTorch and torchvision: python tests/golden/gen_models_small.py writes
tests/golden/models_small.safetensors.

The format is that of layers_common.py; the same names with the same arguments stand in tests/all/models_small.rs.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.ops import MLP

from layers_common import case, draw, save

torch.manual_seed(16)

attend = lambda **options: lambda m, q, k, v: m(q, k, v, need_weights=False, **options)[0]
attention = lambda *args, **kwargs: nn.MultiheadAttention(*args, batch_first=True, **kwargs)
case("attention_self", attention(12, 3), [draw(2, 5, 12)], call=lambda m, x: m(x, x, x, need_weights=False)[0])
case("attention_self_flat", attention(12, 3, bias=False), [draw(5, 12)], call=lambda m, x: m(x, x, x, need_weights=False)[0])
case("attention_cross", attention(8, 2), [draw(2, 3, 8), draw(2, 6, 8), draw(2, 6, 8)], call=attend())
mask = torch.ones(4, 4, dtype=torch.bool).triu(1)
case("attention_causal", attention(8, 4), [draw(2, 4, 8)], call=lambda m, x: m(x, x, x, need_weights=False, attn_mask=mask)[0])

case("mlp", MLP(5, [7, 6, 3]), [draw(4, 5)])
case("mlp_batch_norm", MLP(5, [7, 3], norm_layer=nn.BatchNorm1d, activation_layer=nn.Tanh), [draw(6, 5)])
case("mlp_layer_norm", MLP(5, [7, 6, 3], norm_layer=nn.LayerNorm, activation_layer=nn.SiLU, bias=False), [draw(2, 3, 5)])
case("mlp_one", MLP(5, [3]), [draw(4, 5)])

vit = VisionTransformer(image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=12, num_classes=3)
case("vit", vit, [draw(2, 3, 8, 8)])


class Halves(nn.Module):
    """The encoder up to its last layer, and the decoder."""

    def __init__(self, conv, latent):
        super().__init__()
        if conv:
            self.encoder = nn.Sequential(nn.Conv2d(2, 3, 3, 2, 1), nn.ReLU(), nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten())
            self.features = 4 * 2 * 1
            self.decoder = nn.Sequential(
                nn.Linear(latent, 4 * 2 * 1),
                nn.ReLU(),
                nn.Unflatten(1, (4, 2, 1)),
                nn.ConvTranspose2d(4, 3, 3, 2, 1, 1),
                nn.ReLU(),
                nn.ConvTranspose2d(3, 2, 3, 2, 1, 1),
            )
        else:
            self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(2 * 8 * 4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU())
            self.features = 5
            self.decoder = nn.Sequential(
                nn.Linear(latent, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2 * 8 * 4), nn.Unflatten(1, (2, 8, 4))
            )


class Autoencoder(Halves):
    def __init__(self, conv, latent):
        super().__init__(conv, latent)
        self.encoder.append(nn.Linear(self.features, latent))

    def forward(self, x):
        return self.decoder(self.encoder(x))


class Vae(Halves):
    def __init__(self, conv, latent, gaussian=False):
        super().__init__(conv, latent)
        self.fc_mu, self.fc_log_var = nn.Linear(self.features, latent), nn.Linear(self.features, latent)
        self.gaussian = gaussian

    def forward(self, x, beta):
        """The bound at z = mu, its parts, and the reconstruction; by torch.distributions."""
        h = self.encoder(x)
        mu, std = self.fc_mu(h), (self.fc_log_var(h) / 2).exp()
        y = self.decoder(mu)
        target = x.detach()
        error = 0.5 * (y - target) ** 2 if self.gaussian else F.binary_cross_entropy_with_logits(y, target, reduction="none")
        reconstruction = error.sum() / len(x)
        q = torch.distributions.Normal(mu, std)
        kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(std))).sum() / len(x)
        return torch.stack([reconstruction + beta * kl, reconstruction, kl]), y if self.gaussian else y.sigmoid()


case("autoencoder", Autoencoder(False, 3), [draw(4, 2, 8, 4)])
case("autoencoder_conv", Autoencoder(True, 3), [draw(4, 2, 8, 4)])
# The images get no gradient here: in a likelihood they are targets too.
pixels = torch.randint(0, 2, (4, 2, 8, 4), dtype=torch.int32)
case("vae", Vae(False, 3), [pixels], call=lambda m, x: m(x.double(), 1.0))
case("vae_conv", Vae(True, 3, gaussian=True), [pixels], call=lambda m, x: m(x.double() / 2, 4.0))

save(__file__, "models_small.safetensors")
