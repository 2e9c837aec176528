"""What `import nilr` offers: plain functions on images, models and results, for notebooks and scripts."""
