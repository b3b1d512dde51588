"""Put global context into a torchvision-style backbone: three lines.

Run it: python context_in_a_backbone.py

With torchvision it is the same: its ResNets have a `layer4` of 512 channels (ResNet-18 and -34) or 2048 (the others).
"""

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip, as in torchvision's ResNet-18."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(skip, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        y = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(y)) + skip).relu()


class ResNet(nn.Module):
    """Stem, four stages and a classifier, under torchvision's names."""

    def __init__(self, classes: int = 10, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(width, width, 1), BasicBlock(width, width, 1))
        self.layer2 = nn.Sequential(BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 2 * width, 1))
        self.layer3 = nn.Sequential(BasicBlock(2 * width, 4 * width, 2), BasicBlock(4 * width, 4 * width, 1))
        self.layer4 = nn.Sequential(BasicBlock(4 * width, 8 * width, 2), BasicBlock(8 * width, 8 * width, 1))
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((-2, -1)))


def main() -> None:
    torch.manual_seed(0)

    # The three lines.
    from sgs.nn import HierarchicalSemiGlobalBlock

    net = ResNet()
    net.layer4.append(HierarchicalSemiGlobalBlock(512))

    images = torch.randn(2, 3, 256, 320)
    loss = nn.functional.cross_entropy(net(images), torch.tensor([3, 7]))
    loss.backward()
    block = net.layer4[-1]
    print(block)
    print(f"parameters: {sum(p.numel() for p in block.parameters()):,} of {sum(p.numel() for p in net.parameters()):,}")
    print(f"loss: {loss.item():.4f}")
    first = block.blocks[0]
    print(f"gradients of log alpha and log beta: {first.log_alpha.grad:.2e} {first.log_beta.grad:.2e}")


if __name__ == "__main__":
    main()
