// Everything that a plug-in includes.
#pragma once

#include "algorithm.h"
#include "check.h"
#include "dataset.h"
#include "layers.h"
#include "local_training.h"
#include "network.h"
#include "partitioner.h"
#include "registry.h"
#include "rng.h"
#include "sampler.h"
#include "sequential.h"
#include "server_optimizer.h"
