"""From decoded or pending pictures to those a batch is made of: geometry, mixing, augmentation."""
