"""What a checkpoint can do, with the training code's own model: sparse attention against dense, recall, drafts."""
