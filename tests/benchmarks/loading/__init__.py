"""What the loader's benchmark is made of: a store, the same samples in every form, loaders, and ranks that use them."""
