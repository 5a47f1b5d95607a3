// Holds a pod's namespaces: waits, and reaps what is left to it.
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void stop(int number) { (void)number; exit(0); }

int main(void) {
  signal(SIGTERM, stop);
  signal(SIGINT, stop);
  for (;;) {
    while (waitpid(-1, NULL, WNOHANG) > 0) {}
    sleep(1);
  }
}
