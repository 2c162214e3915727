"""One file per device family: the wire side over the physics."""
