#include "cuda_emulated.h"
