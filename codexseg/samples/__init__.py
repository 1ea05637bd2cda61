"""Demo slides: synthetic tissue and a published lung tumour."""
