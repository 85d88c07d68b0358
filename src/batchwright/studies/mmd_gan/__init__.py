"""Study of Li et al. (2017), MMD GAN."""
