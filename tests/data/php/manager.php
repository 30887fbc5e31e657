<?php
// php manager.php ADDRESS WORKERS: a manager and its workers, after Swoole's way with processes.
// SIGUSR1 to the manager: new workers at once, the old ones finish what they have and end.
// SIGTERM: all end. A request is answered with "GENERATION PEER", PEER being the client's IP as seen here.
[, $address, $workers] = $argv;
$socket = stream_socket_server("tcp://$address", $code, $message) ?: exit("$message\n");
stream_set_blocking($socket, false);
$generation = 0;
$running = [];
pcntl_async_signals(true);

function work($socket, int $generation): never
{
    $manager = posix_getppid();
    $over = false;
    pcntl_signal(SIGTERM, function () use (&$over) { $over = true; });
    pcntl_signal(SIGUSR1, SIG_IGN);
    // Nobody is left behind by a manager that was killed.
    while (!$over && posix_getppid() === $manager) {
        $ready = [$socket];
        $none = null;
        if (!@stream_select($ready, $none, $none, 1) || !($client = @stream_socket_accept($socket, 0, $peer))) {
            continue;
        }
        // A connection of many requests, until the client or Connection: close ends it.
        while (($line = fgets($client)) !== false) {
            $close = false;
            while (($header = fgets($client)) !== false && trim($header) !== '') {
                $close = $close || stripos($header, 'connection: close') === 0;
            }
            $body = $generation . ' ' . substr($peer, 0, strrpos($peer, ':'));
            fwrite($client, "HTTP/1.1 200 OK\r\nContent-Length: " . strlen($body) . "\r\n\r\n" . $body);
            if ($close) {
                break;
            }
        }
        fclose($client);
    }
    exit(0);
}

$start = function () use (&$running, &$generation, $socket, $workers) {
    $generation++;
    for ($i = 0; $i < $workers; $i++) {
        $pid = pcntl_fork();
        $pid ?: work($socket, $generation);
        $running[$pid] = true;
    }
};
$end = function (array $pids, int $signal) { foreach ($pids as $pid) { posix_kill($pid, $signal); } };

$reload = false;
$over = false;
pcntl_signal(SIGUSR1, function () use (&$reload) { $reload = true; });
pcntl_signal(SIGTERM, function () use (&$over) { $over = true; });
$start();
while (!$over) {
    usleep(20_000);
    if ($reload) {
        $reload = false;
        $old = array_keys($running);
        $start();
        $end($old, SIGTERM);
    }
    while (($pid = pcntl_waitpid(-1, $status, WNOHANG)) > 0) {
        unset($running[$pid]);
    }
}
$end(array_keys($running), SIGKILL);
