// Everything that a plug-in includes.
#pragma once

#include "base/check.h"
#include "base/registry.h"
#include "base/rng.h"
#include "data/dataset.h"
#include "data/partitioner.h"
#include "learning/aggregator.h"
#include "learning/algorithm.h"
#include "learning/local_training.h"
#include "learning/sampler.h"
#include "learning/server_optimizer.h"
#include "learning/tracker.h"
#include "learning/transform.h"
#include "learning/wrapper.h"
#include "network/layers.h"
#include "network/network.h"
#include "network/sequential.h"
