// Personalisation: finetune, fedper, fedrep, ditto and so on.
#include "commands/selftest/experiments.h"
