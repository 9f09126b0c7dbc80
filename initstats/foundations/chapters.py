"""The words of the lesson's page, and which code and figure belong to each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from initstats import backprop
from initstats.foundations import steps


class Chapter(NamedTuple):
    """A part of the page.

    Attributes:
        title: its heading.
        steps: of the lesson's table, whose rows it shows.
        text: paragraphs; `code` in backticks.
        code: what to show the source of.
        figures: by the name of their function.
    """

    title: str
    steps: tuple[str, ...]
    text: tuple[str, ...]
    code: tuple[Callable[..., object], ...] = ()
    figures: tuple[str, ...] = ()


CHAPTERS = [
    Chapter(
        "The data, normalized",
        ("data", "normalize", "check"),
        (
            "The first 50,000 images of MNIST's training file train, its last 10,000 validate; a "
            "pixel is a byte over 256. Both are normalized with the mean and the standard "
            "deviation of the *training* images: whatever the model learns about numbers, it "
            "learned there.",
            "One published number is not what the data say. The notebook's validation mean is "
            "-0.0058, and ours rounds to -0.0059. The notebook explains it itself: after its "
            "normalization the training mean was 3.06e-05 instead of 0, a residue of summing 39 "
            "million float32 numbers, and all its normalized values are too large by as much. "
            "Such residues depend on the order of summation and are not compared.",
        ),
        (steps.get_data, backprop.normalize, backprop.assert_near_zero),
    ),
    Chapter(
        "The architecture, and a first draw",
        ("architecture", "simplified kaiming"),
        (
            "784 pixels, 50 hidden units, one output: the digit itself, as if it were a quantity. "
            "Not a good model, but a short one.",
            "A sum of 784 products of unit size is of size 28. Divide the weights by that, and "
            "what comes out has mean 0 and standard deviation 1 again: on average over the draws. "
            "One draw's mean is nowhere near zero to three digits. The images resemble each other, "
            "so a unit that likes one likes most, and only 50 units are there to average: with the "
            "kernel of the data (see the theory) the mean has a standard deviation of 0.076, "
            "however many images are used.",
        ),
        (steps.simplified_kaiming, steps.lin),
    ),
    Chapter(
        "What went wrong? relu, and the two on the top",
        ("relu", "kaiming", "torch's kaiming"),
        (
            "relu removes everything below zero: the mean goes up to 0.39, the second moment is "
            "halved. He et al. (2015) make up for the half: a two on the top, or 2 / (1 + a²) for "
            "a leaky relu of slope a. It restores the second moment, not the mean.",
            "torch keeps weights as (units, inputs), and so it takes the second axis for the "
            "inputs. For a matrix of (784, 50) that is multiplied from the right, what torch calls "
            "`fan_out` is the number of inputs. With its default the weights would be four times "
            "too large.",
            "Each published pair is one draw; the honest question is whether it lies where draws "
            "lie. We repeat them, seed by seed, and take the middle 99.9%: of some twenty "
            "published numbers one outside 99% would mean nothing. Of the validation images every "
            "third is used, which moves a seed's numbers by 2 to 4% of their spread: the seeds are "
            "the sample, not the images.",
        ),
        (steps.relu, steps.kaiming, steps.torch_kaiming),
        ("published_draws", "leak"),
    ),
    Chapter(
        "What if …? relu − 0.5",
        ("relu - 0.5",),
        (
            "Subtract a half, and the mean comes back, to 0.05 on average. For one layer, that is: "
            "the last figure of this chapter goes on for nineteen more.",
            "Two of the notes' numbers agree to the digit: 0.8032 is the standard deviation of a "
            "kaiming draw and of a relu - 0.5 draw. From one draw of weights both would come out "
            "alike, but then the means would differ by exactly a half, and 0.5535 and 0.0372 do "
            "not. They may be two draws: both pairs lie amid the cloud.",
        ),
        (steps.shifted_relu,),
        ("published_pairs", "relu_and_shifted"),
    ),
    Chapter(
        "Forward, and the loss",
        ("forward timing", "mse"),
        (
            "Linear, relu, linear; then the mean squared error. The output is (samples, 1), the "
            "target (samples,): without the squeeze, their difference would be (samples, samples), "
            "and wrong without a word. A bare `squeeze()` would do, until a batch of one loses its "
            "samples, too.",
        ),
        (steps.forward, steps.mse),
    ),
    Chapter(
        "Gradients by hand",
        ("gradients by hand",),
        (
            "The chain rule, from the back: each function turns the gradient with respect to its "
            "output into that with respect to its input. A linear layer also has a weight, whose "
            "gradient is a sum over the samples of outer products, here literally: one giant "
            "outer product, summed.",
            "The number is the largest distance from autograd's gradient of any of the five "
            "tensors, as a share of that gradient's norm. What is left is rounding of float32.",
        ),
        (
            steps.mse_gradient,
            steps.relu_gradient,
            steps.linear_gradients,
            steps.backward,
        ),
    ),
    Chapter(
        "Layers as classes",
        ("layers as classes", "Module"),
        (
            "Each layer remembers what it was given, so that going back needs nothing but the "
            "gradient from behind. What they share becomes `Module`: calling it runs `forward` and "
            "remembers, `backward` runs `bwd` and keeps the gradients. They stay with the layer; "
            "nothing is hung on anybody's tensors.",
            "`initstats.backprop.gradient_check` compares any such model with autograd and, in "
            "float64, with difference quotients, tensor by tensor.",
        ),
        (backprop.Module, backprop.ReLU, backprop.MSE, backprop.Linear, backprop.Model),
    ),
    Chapter(
        "The weight gradient, three ways; and torch",
        ("without einsum", "torch"),
        (
            "The giant outer product holds samples x 784 x 50 numbers, 7.8 GB for the training "
            "set. It is timed on a twentieth of the samples in slices of 500, which is kind to it: "
            "memory is what it spends its time on. The other ways are matrix products, and as fast "
            "as torch.",
            "Now we are allowed to use `nn.Linear` and autograd. Published times are another "
            "machine's: compare the ratios.",
        ),
        (backprop.outer, backprop.einsum, backprop.matmul, steps.torch_layers),
    ),
    Chapter(
        "Why √5?",
        (),
        (
            "`nn.Linear` and `nn.Conv2d` draw their weights by kaiming_uniform with a = √5: "
            "the scale for a leaky relu of that slope. Behind it is no thought about signals, but "
            "an older default, uniform within 1 / √inputs, written in new words: the variance "
            "of a weight is 1 / (3 inputs), a sixth of what a relu needs.",
        ),
        (),
        ("sqrt_five",),
    ),
    Chapter(
        "The open question",
        ("the open question",),
        (
            "“How well does this work in practice? To test, I should try building a very basic CNN "
            "and throw it to ImageWoof, and the only variance being the ReLU layer being "
            "utilized.” It was never answered. Whether better-looking statistics train better is a "
            "study of its own: paired seeds, intervals and tests.",
        ),
    ),
]
